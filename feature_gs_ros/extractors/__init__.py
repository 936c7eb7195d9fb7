"""The extractors, by name: `make_extractor` builds one, `extractor_of` a field's, `extractor_names` lists them.

Third-party ones register a class or factory under the entry point group ``feature_gs_ros.extractors``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, Requirements
from feature_gs_ros.extractors.options import checked_options
from feature_gs_ros.extractors.requirements import OF_THE_BASE

ENTRY_POINT_GROUP = "feature_gs_ros.extractors"
DEFAULT_EXTRACTOR = "imagenet"

# Imported when asked for: an extractor's libraries load only for its users.
_BUILT_IN = {
    "imagenet": "feature_gs_ros.extractors.imagenet:ImageNetExtractor",
    "imagenet-parts": "feature_gs_ros.extractors.imagenet_parts:ImageNetPartsExtractor",
    "color": "feature_gs_ros.extractors.color:ColorExtractor",
    "labels": "feature_gs_ros.extractors.labels:LabelsExtractor",
    "identity": "feature_gs_ros.extractors.codes:IdentityExtractor",
    "precomputed": "feature_gs_ros.extractors.precomputed:PrecomputedExtractor",
    "dinov2": "feature_gs_ros.extractors.dinov2:Dinov2Extractor",
    "lseg": "feature_gs_ros.extractors.lseg:LSegExtractor",
    "clip": "feature_gs_ros.extractors.clip:ClipExtractor",
    "siglip2": "feature_gs_ros.extractors.siglip2:Siglip2Extractor",
    "radio": "feature_gs_ros.extractors.radio:RadioExtractor",
    "dinov3": "feature_gs_ros.extractors.dinov3:Dinov3Extractor",
    "sam": "feature_gs_ros.extractors.sam:SamExtractor",
}


def extractor_names() -> list[str]:
    """Names that `make_extractor` takes: the package's own, then third-party ones."""
    return [*_BUILT_IN, *sorted(set(_third_party()) - set(_BUILT_IN))]


def make_extractor(name: str, **options: object) -> Extractor:
    """The extractor of this name.

    Args:
        name: one of `extractor_names`.
        options: keyword arguments of the extractor's class, e.g. ``weights``.

    Raises:
        ExtractorError: the name is unknown, a library is missing, an option is unknown or of another type, or the
            extractor's own.
    """
    factory = _factory(name)
    parameters = inspect.signature(factory).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        unknown = sorted(set(options) - set(parameters))
        if unknown:
            raise ExtractorError(
                f"the extractor '{name}' has no option {', '.join(unknown)}; it has {', '.join(parameters) or 'none'}",
                code="extractor.unknown",
            )
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and key not in options
    ]
    if missing:
        raise ExtractorError(f"the extractor '{name}' needs the option {', '.join(missing)}", code="extractor.missing")
    return factory(**checked_options(name, factory, options))


def extractor_of(
    identity: ExtractorIdentity, weights: str | Path | None = None, options: Mapping[str, object] | None = None
) -> Extractor:
    """The extractor that made a field, to ask the field by: its options are those that the identity holds.

    Args:
        identity: the field's.
        weights: file of the weights, where it isn't the installed one.
        options: what asking needs beside them, e.g. the embeddings of `precomputed`.

    Raises:
        ExtractorError: the extractor can't be made here, or takes no weights or not these options.
    """
    factory = _factory(identity.name)
    parameters = inspect.signature(factory).parameters
    implied: Mapping[str, object] = getattr(factory, "IMPLIED_OPTIONS", {})  # what leaving an option out means
    known = {**implied, **{key: value for key, value in identity.preprocessing.items() if key in parameters}}
    given = {} if weights is None else {"weights": weights}
    return make_extractor(identity.name, **{**known, **(options or {}), **given})


def extractor_requirements(name: str) -> Requirements | None:
    """What an extractor of this package needs; None for third-party ones, which are not imported to ask them."""
    if name in OF_THE_BASE or name not in _BUILT_IN:
        return OF_THE_BASE.get(name)
    return cast("type[Extractor]", _factory(name)).requirements()


def _factory(name: str) -> Callable[..., Extractor]:
    try:
        if name in _BUILT_IN:
            module, attribute = _BUILT_IN[name].split(":")
            return cast("Callable[..., Extractor]", getattr(importlib.import_module(module), attribute))
        third_party = _third_party()
        if name in third_party:
            return cast("Callable[..., Extractor]", third_party[name].load())
    except (ImportError, AttributeError) as error:
        raise ExtractorError(f"the extractor '{name}' can't be imported: {error}", code="extractor.import") from error
    raise ExtractorError(
        f"extractor '{name}' is unknown; choose {', '.join(extractor_names())}", code="extractor.unknown"
    )


def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
