"""``feature-gs affordance add, list, remove, merge``: libraries of annotated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.affordance import Library, box_labels, make_source
from feature_gs_ros.affordance.pictures import source_picture
from feature_gs_ros.affordance.umd import UMD_AFFORDANCES, load_umd_labels
from feature_gs_ros.cli.checks import check_kind, check_outputs
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.core.progress import say
from feature_gs_ros.extractors import extractor_of, make_extractor
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.detections import load_marks
from feature_gs_ros.io.images import load_image
from feature_gs_ros.io.locks import locked
from feature_gs_ros.io.masks import load_labels
from feature_gs_ros.pictures import save_png

DEFAULT_EXTRACTOR = "imagenet-parts"


def add(
    image: Path,
    mask: Path | None = None,
    /,
    *,
    library: Path,
    labels: Path | None = None,
    affordance: str | None = None,
    box: tuple[float, float, float, float] | None = None,
    object: str = "",  # noqa: A002 - the word of the command line
    name: str | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    turns: int | None = None,
    force: bool = False,
    picture: Path | None = None,
    json: bool = False,
) -> int:
    """Add an annotated image to a library of sources.

    Args:
        image: the annotated image.
        mask: of the same size: a label image, a file of LabelMe, a detector or COCO, a folder of masks by image, or a
            ..._label.mat of the UMD data set.
        library: safetensors file (created if missing), or an existing folder for one file per source.
        labels: names of the mask's values, YAML. Without it every nonzero value is the same affordance.
        affordance: its name, without --labels; the mask's file name by default.
        box: left, top, right, bottom in pixels, instead of a mask.
        object: name of the object, e.g. "coffee mug".
        name: of the source; the image's file name by default.
        extractor: extractor of a new library; imagenet-parts by default.
        weights: the extractor's weights, if not in their usual folder.
        turns: average features over this many copies of the image, each rotated by another 90 degrees: 1 to 4; by
            default 4 if the extractor reads the image.
        force: replace a source of this name.
        picture: PNG of the image with its annotation.
        json: print one JSON object.
    """
    inputs = [image, mask, labels, weights]
    check_outputs({"--picture": picture}, [*inputs, library])
    check_kind("--picture", picture, ".png")
    check_outputs({} if library.is_dir() else {"--library": library}, inputs)
    pixels = load_image(image)
    values, names = _annotation(image, mask, labels, affordance, box, pixels.shape[:2])
    sources, model = _open_library(library, extractor, weights, mask, labels)
    source = make_source(
        pixels,
        values,
        names,
        model,
        name=name or image.stem,
        object_word=object,
        frame=mask.stem if mask is not None and model.identity.name == "labels" else image.stem,
        turns=turns,
    )
    with locked(library):
        if library.exists():  # as others may have changed it since
            sources = Library.load(library)
            sources.check_extractor(model.identity)
        sources = sources.add(source, replace_existing=force)
        sources.save(library)
    if picture is not None:
        save_png(source_picture(source), picture)
    if json:
        print_json(
            {
                "library": str(library),
                "source": source.name,
                "affordances": source.affordances,
                "object": source.object,
                "patches": len(source.features),
                "sources": len(sources),
            }
        )
    else:
        say(
            f"added '{source.name}' ({', '.join(source.affordances)}; {len(source.features)} patches) to {library}, "
            f"which has {len(sources)} source{'s' if len(sources) != 1 else ''}"
        )
    return 0


def list_sources(library: Path, /, *, json: bool = False) -> int:
    """List a library's sources.

    Args:
        library: a library, written by feature-gs affordance add.
        json: print one JSON object.
    """
    sources = Library.load(library)
    if json:
        print_json(
            {
                "teacher": sources.extractor.name,
                "floor": sources.floor,
                "sources": [
                    {
                        "name": source.name,
                        "affordances": source.affordances,
                        "object": source.object,
                        "patches": len(source.features),
                    }
                    for source in sources.sources
                ],
            }
        )
        return 0
    say(f"extractor {sources.extractor.name}, {len(sources)} sources")
    for source in sources.sources:
        of_object = f" of '{source.object}'" if source.object else ""
        say(f"  {source.name}: {', '.join(source.affordances)}{of_object}, {len(source.features)} patches")
    return 0


def remove(name: str, /, *, library: Path) -> int:
    """Remove a source from a library.

    Args:
        name: of the source.
        library: a library, written by feature-gs affordance add.
    """
    with locked(library):
        sources = Library.load(library).remove(name)
        sources.save(library)
    say(f"removed '{name}' from {library}, which has {len(sources)} sources")
    return 0


def merge(first: Path, second: Path, /, *, out: Path) -> int:
    """Merge two libraries of one extractor.

    Args:
        first: a library.
        second: another one; their sources' names must differ.
        out: the library to write.
    """
    with locked(out):
        sources = Library.load(first).merge(Library.load(second))
        sources.save(out)
    say(f"wrote {out} with {len(sources)} sources")
    return 0


def _annotation(
    image: Path,
    mask: Path | None,
    labels: Path | None,
    affordance: str | None,
    box: tuple[float, float, float, float] | None,
    size: tuple[int, int],
) -> tuple[NDArray[np.integer], dict[int, str]]:
    """Label values [H, W], and their names."""
    if (mask is None) == (box is None):
        raise AffordanceError(
            "mark something: give either a MASK or --box LEFT TOP RIGHT BOTTOM", code="affordance.conflict"
        )
    if labels is not None and affordance is not None:
        raise AffordanceError("--labels names the affordances, so leave out --affordance", code="affordance.conflict")
    if box is not None:
        if affordance is None:
            raise AffordanceError("name what the box marks: --affordance NAME", code="affordance.missing")
        return box_labels(*size, box), {1: affordance}
    assert mask is not None
    if mask.suffix == ".mat":
        return load_umd_labels(mask), load_labels(labels) if labels else dict(UMD_AFFORDANCES)
    if mask.is_file() and mask.suffix.lower() not in (".png", ".json"):
        raise AffordanceError(
            f"the mask '{mask}' is neither PNG nor JSON; JPEG and the like blur the borders of labels: save it as PNG",
            code="affordance.format",
        )
    given = None if labels is None else load_labels(labels)
    values, names = load_marks(mask, image.stem, given)
    if given is not None or (names and affordance is None):
        return values, given or names
    return (values > 0).astype(np.uint8), {1: affordance or mask.stem}


def _open_library(
    path: Path, name: str | None, weights: Path | None, mask: Path | None, labels: Path | None
) -> tuple[Library, Extractor]:
    """The library, empty if there is none yet, and its extractor."""
    if path.is_file() or (path.is_dir() and any(path.glob("*.safetensors"))):
        sources = Library.load(path)
        if name is not None and name != sources.extractor.name:
            raise AffordanceError(
                f"'{path}' is a library of the extractor '{sources.extractor.name}', not of '{name}'; "
                "choose another file",
                code="affordance.mismatch",
            )
        if sources.extractor.name == "labels":
            extractor = _extractor("labels", weights, mask, labels)
        else:
            extractor = extractor_of(sources.extractor, weights)  # with the options that the library was made with
        sources.check_extractor(extractor.identity)
        return sources, extractor
    extractor = _extractor(name or DEFAULT_EXTRACTOR, weights, mask, labels)
    return Library.of(extractor), extractor


def _extractor(name: str, weights: Path | None, mask: Path | None, labels: Path | None) -> Extractor:
    options: dict[str, object] = {}
    if weights is not None:
        options["weights"] = weights
    if name == "labels":
        if mask is None or labels is None:
            raise AffordanceError("the extractor 'labels' needs a MASK and --labels YAML", code="affordance.missing")
        options |= {"masks": mask.parent, "labels": labels}
    return make_extractor(name, **options)
