"""FeatureField: one feature per Gaussian of one map, from one extractor; saved and loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from feature_gs_ros.backprojection.looks import Looks
from feature_gs_ros.backprojection.provenance import KnownView, Provenance
from feature_gs_ros.core.codec import PRESERVES, Codec
from feature_gs_ros.core.errors import AlignmentError, CameraError, FieldError, OutOfMemoryError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import gigabytes, release_mapped
from feature_gs_ros.core.text import shown
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.atomic import finish_interrupted
from feature_gs_ros.io.checked_once import mark_of, remember
from feature_gs_ros.io.structured import Table
from feature_gs_ros.io.tensors import TensorBlocks, read_tensor_file, write_tensor_file
from feature_gs_ros.numerics.device import HOST

__all__ = [
    "FORMAT",
    "MIN_WEIGHT",
    "FeatureField",
    "KnownView",
    "Provenance",
    "describe_extractor",
    "expected_features",
]

FORMAT = "feature_gs_ros field 1"
CHECK = "field 1: finite, not negative"  # what `load` reads all numbers for, once per file
CHECKED_NUMBERS = 1 << 27  # of a large field, read at once for that
RELEASED_BYTES = 1 << 30  # of features: of fewer, all pages may stay once they were read
MIN_WEIGHT = 1e-12
MAX_VIEWS = 1 << 30  # of a Gaussian: two fields still add up in 32 bits


@dataclass(frozen=True, eq=False)
class FeatureField:
    """Expected back-projection (Eq. 4) of N Gaussians with what is needed to go on: weights and view counts.

    Features are finite everywhere; a Gaussian is *seen* where `view_count` > 0. Features may lie on a card, where
    questions about them are answered then; all else lies on the host.
    """

    features: Tensor  # [N, K] float32, float16: the extractor's features, or the codec's codes of them; int8: codes
    weight: Tensor  # [N] Σ_v Wᵀ m
    view_count: Tensor  # [N] int32, views in which the Gaussian had weight
    extractor: ExtractorIdentity
    provenance: Provenance
    codec: Codec | None = None
    looks: Looks = field(default_factory=Looks)  # images of some of the views

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def seen(self) -> Tensor:
        """[N] bool."""
        return self.view_count > 0

    @property
    def dimension(self) -> int:
        """D of the extractor, whatever is stored."""
        return self.codec.feature_dimension if self.codec else self.features.shape[1]

    def accumulated(self) -> Tensor:
        """Accumulated back-projection ``Σ Wᵀ M U F`` of Eq. 5, [N, K], in the codec's channels if there is one."""
        return self.stored() * self.weight.unsqueeze(1)

    def stored(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """What is stored of the given rows, [M, K] float32 on the host."""
        return self.features[rows].to(HOST, torch.float32)

    def decoded(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The extractor's features [M, D] float32 of the given rows, on the host."""
        return self.resident(rows).to(HOST)

    def resident(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The extractor's features [M, D] float32 of the given rows, where the field's lie."""
        features = self.features[rows]
        return self.codec.decode(features) if self.codec else features.to(torch.float32)

    def on(self, device: torch.device) -> FeatureField:
        """The same field with its features on a device; no copy where they lie there.

        Raises:
            OutOfMemoryError: the device has no room for them.
        """
        if self.features.device == device:
            return self
        try:
            return replace(self, features=self.features.to(device))
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{device} has no room for a field of {gigabytes(self.features.nbytes)}: use --backend cpu"
            ) from error

    def coverage(self, gaussians: GaussianMap, among: Tensor | None = None) -> float:
        """Opacity-weighted fraction, of the Gaussians ``among`` [N] bool (all by default), that were seen."""
        opacity = gaussians.opacities if among is None else gaussians.opacities * among
        total = float(opacity.sum())
        return float((opacity * self.seen).sum()) / total if total > 0 else 0.0

    def check_map(self, gaussians: GaussianMap) -> None:
        """Raise a FieldError unless ``gaussians`` is the map that this field belongs to."""
        if len(gaussians) != len(self) or gaussians.checksum != self.provenance.map_checksum:
            raise FieldError(
                f"the field has {len(self)} features for the map '{self.provenance.map_path}' "
                f"(checksum {self.provenance.map_checksum[:12]}), not for this one "
                f"({len(gaussians)} Gaussians, checksum {gaussians.checksum[:12]}); give the map it was made with",
                code="field.mismatch",
            )

    def check_extractor(self, identity: ExtractorIdentity) -> None:
        """Raise a FieldError unless ``identity`` is the extractor that made this field."""
        if identity != self.extractor:
            raise FieldError(
                f"the field was made by the extractor {describe_extractor(self.extractor)}, "
                f"not by {describe_extractor(identity)}; use the same one or back-project again",
                code="field.mismatch",
            )

    def prune(self, gaussians: GaussianMap) -> tuple[FeatureField, GaussianMap]:
        """Field and map without what no camera saw."""
        self.check_map(gaussians)
        rows = self.seen.nonzero()[:, 0]
        kept = gaussians.select(rows)
        return (
            replace(
                self,
                features=self.features[rows],
                weight=self.weight[rows],
                view_count=self.view_count[rows],
                provenance=replace(self.provenance, map_checksum=kept.checksum, map_path=""),
            ),
            kept,
        )

    def save(self, path: str | Path, features: TensorBlocks | None = None) -> None:
        """Write a safetensors file; it appears whole or not at all.

        Args:
            features: to write instead of the field's own, which may be too large for the memory.

        Raises:
            FieldError: the file can't be written.
        """
        tensors: dict[str, Tensor | TensorBlocks] = {
            "features": self.features.to(HOST) if features is None else features,
            "weight": self.weight,
            "view_count": self.view_count,
        }
        if self.codec:
            tensors |= {"encoder": self.codec.encoder, "decoder": self.codec.decoder, "mean": self.codec.mean}
        tensors |= self.looks.as_tensors()
        shared = self.codec is not None and self.codec.encoder.data_ptr() == self.codec.decoder.data_ptr()
        if shared:
            del tensors["decoder"]
        try:
            write_tensor_file(path, FORMAT, tensors, self._content())
        except OSError as error:
            raise FieldError(
                f"can't write the field '{path}': {error.strerror or error}", code="field.unwritable"
            ) from error

    def _content(self) -> dict[str, object]:
        return {
            "teacher": {
                "name": self.extractor.name,
                "weights": self.extractor.weights,
                "preprocessing": dict(self.extractor.preprocessing),
            },
            "provenance": self.provenance.as_json(),
            "codec": self.codec.kind if self.codec else None,
            "looks": self.looks.as_json(),
        }

    @staticmethod
    def load(path: str | Path, *, values_are_known: bool = False) -> FeatureField:
        """Read a field; a large one is mapped, so that what isn't asked for stays on disk.

        Args:
            values_are_known: this process wrote them; else all are read once to check them.

        Raises:
            FieldError: missing, truncated, or not a field.
        """
        path = Path(path)
        with contextlib.suppress(OSError, ValueError):  # a folder that can't be written: what is there is read
            finish_interrupted(path)
        if path.is_dir():
            raise FieldError(f"'{path}' is a folder; name the field in it", code="field.unreadable")
        if not path.is_file():
            raise FieldError(
                f"there is no field '{path}'; make one with: feature-gs backproject MAP STREAM --out {path}",
                code="field.unreadable",
            )
        mark = mark_of(path, CHECK)
        known = values_are_known or (mark is not None and mark.exists())
        tensors, content = read_tensor_file(path, FORMAT, FieldError, "give a file that feature-gs backproject wrote")
        try:
            loaded = _from_file(tensors, content, values_are_known=known)
        except (KeyError, TypeError, ValueError, AlignmentError, CameraError) as error:
            raise FieldError(f"'{path}' is damaged: {error!r}; make it anew", code="field.value") from error
        if not known:
            remember(path, CHECK, mark)
        return loaded


def expected_features(numerator: Tensor, weight: Tensor) -> Tensor:
    """Expected back-projection, Eq. 4 of Joseph et al.: ``f_i = Σ w_i(p) F(p) / Σ w_i(p)``.

    Args:
        numerator: ``Wᵀ F`` summed over the views, shape [N, D].
        weight: ``Wᵀ 1`` summed over the views, shape [N].

    Returns:
        Features [N, D], finite everywhere; whether a row was seen at all is the view count's to say.
    """
    return numerator / weight.clamp_min(MIN_WEIGHT).unsqueeze(-1)


def describe_extractor(identity: ExtractorIdentity) -> str:
    """For messages: the name, a few digits of the weights and the preprocessing."""
    details = [identity.weights[:12]] if identity.weights else []
    details += [f"{key}={value}" for key, value in identity.preprocessing.items()]
    return f"'{identity.name}' ({', '.join(details)})" if details else f"'{identity.name}'"


def _from_file(tensors: Mapping[str, Tensor], content: Table, values_are_known: bool) -> FeatureField:
    features, weight, view_count = tensors["features"], tensors["weight"], tensors["view_count"]
    shapes = tuple(features.shape), tuple(weight.shape), tuple(view_count.shape)
    if len(shapes[0]) != 2 or 0 in shapes[0] or shapes[1:] != (shapes[0][:1],) * 2:
        raise ValueError(f"shapes {shapes[0]}, {shapes[1]}, {shapes[2]} don't fit together")
    if features.dtype != torch.int8 or content.get("codec") is None:
        _check_floats(features=features)
    _check_floats(weight=weight)
    if view_count.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"view_count holds {view_count.dtype}")
    if not values_are_known:
        _check_finite(features=features, weight=weight)
        if bool((weight < 0).any()) or bool((view_count < 0).any()):
            raise ValueError("weights or view counts are negative")
        if int(view_count.max()) > MAX_VIEWS:
            raise ValueError(f"view counts reach {int(view_count.max())}, at most {MAX_VIEWS} are added up")
    return FeatureField(
        features=features,
        weight=weight,
        view_count=view_count,
        extractor=identity_from_table(content.table("teacher")),
        provenance=Provenance.from_table(content.table("provenance")),
        codec=_codec_from_file(content.get("codec"), tensors, shapes[0][1]),
        looks=Looks.from_file(content.table("looks"), tensors) if "looks" in content else Looks(),
    )


def identity_from_table(table: Table) -> ExtractorIdentity:
    """What a file says about the model that its features are of.

    Raises:
        FeatureGsError: the table's error.
    """
    preprocessing = table.get("preprocessing")
    if not isinstance(preprocessing, dict):
        raise table.error(f"'preprocessing' of {table.source} is not a table", code=f"{table.error.code}.value")
    return ExtractorIdentity(table.text("name"), table.text("weights"), preprocessing)


def _codec_from_file(kind: object, tensors: Mapping[str, Tensor], stored: int) -> Codec | None:
    if kind is None:
        return None
    if not isinstance(kind, str) or kind not in PRESERVES:
        raise ValueError(f"codec {shown(kind)} is unknown")
    encoder, mean = tensors["encoder"], tensors["mean"]
    decoder = tensors.get("decoder", encoder)
    shape = tuple(encoder.shape)
    if len(shape) != 2 or shape[0] != stored or decoder.shape != encoder.shape or tuple(mean.shape) != shape[1:]:
        raise ValueError(
            f"a codec of shapes {shape}, {tuple(decoder.shape)}, {tuple(mean.shape)} doesn't fit {stored} channels"
        )
    _check_floats(encoder=encoder, decoder=decoder, mean=mean)
    _check_finite(encoder=encoder, decoder=decoder, mean=mean)
    return Codec(kind, encoder, decoder, mean)


def _check_floats(**tensors: Tensor) -> None:
    for name, values in tensors.items():
        if values.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise TypeError(f"{name} hold {values.dtype}")


def _check_finite(**tensors: Tensor) -> None:
    for name, values in tensors.items():
        # One pass without a copy, however large, and without keeping a mapped file's pages; NaN wins either.
        for block in torch.split(values, max(1, CHECKED_NUMBERS // max(1, values[:1].numel()))):
            if not all(bool(torch.isfinite(end)) for end in torch.aminmax(block)):
                raise ValueError(f"{name} hold NaN or Inf")
            if values.nbytes > RELEASED_BYTES:
                release_mapped(values)
