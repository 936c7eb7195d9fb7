"""BackProjector: features of views go in one by one, or several at once, and come out as a field."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField, Provenance, expected_features
from feature_gs_ros.backprojection.looks import Looks
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.errors import FieldError, GridError, OutOfMemoryError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import check_budget
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.numerics.device import HOST, in_torch
from feature_gs_ros.numerics.streams import inserted
from feature_gs_ros.rasterizer import AccumulatorState, Backend, BackendChoice, View, get_backend

BATCH = 8  # views accumulated at once by default
CHUNK = 4096  # Gaussians whose sums are copied at once
LARGE_CHUNK = 1 << 16  # the same on a card


class BackProjector:
    """Streaming accumulators ``Σ_v Wᵀ M U F``, ``Σ_v Wᵀ m`` and the count of views, for one map and one extractor.

    They are linear: views can be added, subtracted again, and accumulators of two runs merged.
    """

    def __init__(
        self,
        gaussians: GaussianMap,
        extractor: ExtractorIdentity,
        dimension: int,
        *,
        codec: Codec | None = None,
        batch: int = BATCH,
        budget: int | None = None,
        provenance: Provenance | None = None,
        already_allocated: int = 0,
        backend: BackendChoice = "auto",
        looks: Looks | None = None,
    ) -> None:
        """Start empty.

        Args:
            dimension: D of the extractor's grids.
            codec: encode grids before accumulation.
            batch: views accumulated at once: each row of the accumulators is then touched once for all of them.
            budget: bytes that accumulators and field may take; most of the free memory by default.
            already_allocated: bytes of these that this process holds already: those of a field to go on from.
            backend: what accumulates; the views that are added are this backend's.
            looks: images to keep, and the limits for more; see `Looks`.

        Raises:
            BudgetError: it would take more.
            BackendError: ``backend`` can't run here.
            OutOfMemoryError: the backend's device has no room for the accumulators.
            FieldError: the codec is for another dimension.
        """
        if codec is not None and codec.feature_dimension != dimension:
            raise FieldError(
                f"the codec is for {codec.feature_dimension} dimensions, the extractor has {dimension}",
                code="field.shape",
            )
        self.gaussians = gaussians
        self.extractor = extractor
        self.dimension = dimension
        self.codec = codec
        self.backend: Backend = get_backend(backend)
        self.batch = max(1, batch)
        self.provenance = provenance or Provenance(gaussians.checksum, map_notes=gaussians.notes)
        self.looks = Looks() if looks is None else looks
        stored = codec.dimension if codec else dimension
        check_budget(
            memory_needed(len(gaussians), stored, self.backend),
            budget,
            f"a field of {len(gaussians)} Gaussians × {stored} channels",
            "store fewer channels with a codec (--codec pca:64) or raise the budget",
            already_allocated,
        )
        self._sums = self.backend.accumulator(gaussians, stored)
        self._queue: list[tuple[View, FeatureGrid, Tensor | None]] = []

    @property
    def stored(self) -> int:
        """Numbers accumulated per Gaussian: the codec's, or the extractor's."""
        return self._sums.channels

    @staticmethod
    def resume(
        gaussians: GaussianMap,
        field: FeatureField,
        batch: int = BATCH,
        budget: int | None = None,
        backend: BackendChoice = "auto",
    ) -> BackProjector:
        """Go on where a saved field stopped.

        The peak is that of a new one where nothing else holds the field: it is needed no more.

        Raises:
            FieldError: the field belongs to another map.
            BudgetError: as for a new one.
        """
        field.check_map(gaussians)
        projector = BackProjector(
            gaussians,
            field.extractor,
            field.dimension,
            codec=field.codec,
            batch=batch,
            budget=budget,
            provenance=field.provenance,
            already_allocated=field.features.nbytes,
            backend=backend,
            looks=field.looks,
        )
        for first in range(0, len(field), CHUNK):
            rows = slice(first, first + CHUNK)
            weight = field.weight[rows]
            numerator = field.stored(rows) * weight.unsqueeze(1)
            projector._sums.load(AccumulatorState(numerator, weight, field.view_count[rows]), first)
        return projector

    def add(
        self,
        view: View,
        grid: FeatureGrid,
        valid: Tensor | None = None,
        name: str = "",
        image: Image | None = None,
    ) -> None:
        """Add a view's features.

        Args:
            grid: [rows, columns, D] of this extractor.
            valid: m(p) [H, W], the fraction in which each pixel counts; all by default.
            name: the frame's, remembered in the field.
            image: [H, W, 3] of the view, of which the field keeps a small one if it is worth a look.

        Raises:
            GridError: another dimension than the extractor's, values that are not finite, or a mask of another size.
            CameraError: an image that the rasteriser can't take.
        """
        self._queue.append(self._entry(view, grid, valid))
        if name:
            self.provenance = replace(self.provenance, frames=(*self.provenance.frames, name))
        if image is not None:
            self.looks = self.looks.with_view(view, image, name)
        if len(self._queue) >= self.batch:
            self.flush()

    def subtract(self, view: View, grid: FeatureGrid, valid: Tensor | None = None, name: str = "") -> None:
        """Take a view out again, as if it had not been added (to float accuracy; the view count exactly).

        Raises:
            GridError, CameraError: as for `add`.
            FieldError: no view of this name was added.
        """
        if name and name not in self.provenance.frames:
            raise FieldError(f"no view '{name}' was added, so it can't be subtracted", code="field.missing")
        entry = self._entry(view, grid, valid)
        self.flush()
        self._accumulate([entry], sign=-1)
        if name:
            frames = list(self.provenance.frames)
            frames.remove(name)
            self.provenance = replace(self.provenance, frames=tuple(frames))
            self.looks = self.looks.without(name)

    def merge(self, other: BackProjector) -> None:
        """Add another projector's accumulators, of the same map, extractor and codec.

        Raises:
            FieldError: they differ.
        """
        if other.gaussians.checksum != self.gaussians.checksum or other.extractor != self.extractor:
            raise FieldError("accumulators of another map or extractor can't be merged", code="field.mismatch")
        if not (self.codec.same_as(other.codec) if self.codec else other.codec is None):
            raise FieldError("accumulators with another codec can't be merged", code="field.mismatch")
        self.flush()
        other.flush()
        for first in range(0, len(self.gaussians), CHUNK):
            self._sums.merge(other._sums.state(first, min(first + CHUNK, len(self.gaussians))), first)
        self.provenance = self.provenance.joined(other.provenance)
        self.looks = self.looks.with_looks(other.looks.kept)

    def flush(self) -> None:
        """Accumulate what is queued."""
        queue, self._queue = self._queue, []
        if not queue:
            return
        try:
            self._accumulate(queue, sign=1)
        except (OutOfMemoryError, MemoryError, RuntimeError):  # the sums are as before, without these views
            frames = self.provenance.frames
            self.provenance = replace(self.provenance, frames=frames[: max(0, len(frames) - len(queue))])
            raise

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, AccumulatorState]]:
        """All sums with what was queued, see `Accumulator.blocks`."""
        self.flush()
        return self._sums.blocks(rows)

    def view_count(self) -> Tensor:
        """How many views saw each Gaussian, [N] int32, those accumulated so far."""
        return self._sums.view_count()

    def rows(self, rows: Tensor) -> Tensor:
        """Features [M, D] of a few rows [M] of the map as accumulated so far, decoded."""
        there = self.backend.device
        rows = rows.to(there)
        wanted = torch.zeros(len(self.gaussians), dtype=torch.bool, device=there)
        wanted[rows] = True
        stored = torch.empty(len(self.gaussians), dtype=torch.int64, device=there)
        stored[rows] = torch.arange(len(rows), device=there)
        found = torch.empty(len(rows), self.stored, device=there)
        for own, sums in self._sums.blocks(self._chunk):
            here = wanted[own]
            found[stored[own[here]]] = expected_features(sums.numerator[here], sums.weight[here])
        found = found.to(HOST)
        return self.codec.decode(found) if self.codec else found

    def coverage(self) -> float:
        """Opacity-weighted fraction of the map that was seen by the views accumulated so far."""
        seen = self._sums.view_count() > 0
        total = float(self.gaussians.opacities.sum())
        return float((self.gaussians.opacities * seen).sum()) / total if total > 0 else 0.0

    def field(self, resident: bool = False) -> FeatureField:
        """A snapshot in the map's row order: a copy that later views don't change.

        Args:
            resident: leave its features on the card that the sums lie on, if they do and it has room for both; they
                come to the host otherwise.
        """
        self.flush()
        if resident and in_torch(self.backend.device):
            with contextlib.suppress(torch.OutOfMemoryError):
                return self._resident_field()
        sums = self._sums.state()
        features = sums.numerator  # divided where they lie: a second copy would be the peak
        for first in range(0, len(features), CHUNK):
            rows = slice(first, first + CHUNK)
            features[rows] = expected_features(features[rows], sums.weight[rows])
        return self._field_of(features, sums.weight, sums.view_count)

    def _resident_field(self) -> FeatureField:
        count, there = len(self.gaussians), self.backend.device
        features, weight = torch.empty(count, self.stored, device=there), torch.empty(count, device=there)
        for rows, sums in self._sums.blocks(self._chunk):
            features[rows], weight[rows] = expected_features(sums.numerator, sums.weight), sums.weight
        return self._field_of(features, weight.to(HOST), self._sums.view_count())

    def _field_of(self, features: Tensor, weight: Tensor, view_count: Tensor) -> FeatureField:
        return FeatureField(features, weight, view_count, self.extractor, self.provenance, self.codec, self.looks)

    @property
    def _chunk(self) -> int:
        """Gaussians read at once: few stay in a processor's cache, a card wants many."""
        return LARGE_CHUNK if in_torch(self.backend.device) else CHUNK

    def _entry(self, view: View, grid: FeatureGrid, valid: Tensor | None) -> tuple[View, FeatureGrid, Tensor | None]:
        """What is queued; whatever is wrong with a view comes up here, before it could spoil a batch."""
        encoded = self._encoded(grid)
        self._sums.check(view, encoded, valid)
        return view, encoded, valid

    def _encoded(self, grid: FeatureGrid) -> FeatureGrid:
        if grid.dimension != self.dimension:
            raise GridError(
                f"the grid has {grid.dimension} channels, the extractor '{self.extractor.name}' {self.dimension}",
                code="grid.shape",
            )
        if not bool(torch.isfinite(grid.values).all()):
            raise GridError(
                f"the grid of the extractor '{self.extractor.name}' holds NaN or Inf; this view is left out",
                code="grid.not-finite",
            )
        return replace(grid, values=self.codec.encode(grid.values)) if self.codec else grid

    def _accumulate(self, entries: list[tuple[View, FeatureGrid, Tensor | None]], sign: int) -> None:
        views, grids, valids = zip(*entries, strict=True)
        with inserted("ingestion", self.backend.device):
            self._sums.add(views, grids, valids, sign)


def memory_needed(gaussians: int, stored: int, backend: BackendChoice = "auto") -> int:
    """Bytes on the host of accumulators, of the field made of them or gone on from, and of a view's work: the peak.

    Where accumulators lie on a card, only the field counts.
    """
    chosen = get_backend(backend)
    field = gaussians * (4 * stored + 4 + 4)
    return field + (chosen.accumulator_bytes(gaussians, stored) if chosen.device.type == "cpu" else 0)
