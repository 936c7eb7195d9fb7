"""BackProjector: features of views go in one by one, or several at once, and come out as a field."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField, Provenance, expected_features
from feature_gs_ros.backprojection.looks import Looks
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.errors import BudgetError, FieldError, GridError, OutOfMemoryError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import check_budget, gigabytes
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.tensors import TensorBlocks
from feature_gs_ros.numerics.device import HOST, in_torch
from feature_gs_ros.numerics.streams import inserted
from feature_gs_ros.rasterizer import AccumulatorState, Backend, BackendChoice, Paging, View, get_backend

BATCH = 8  # views accumulated at once by default
CHUNK = 4096  # Gaussians whose sums are copied at once
LARGE_CHUNK = 1 << 16  # the same on a card
PROGRAM_BYTES = 450 << 20  # that libraries and compiled kernels take
ROW_BYTES = 32  # per Gaussian, whatever is paged: weights, counts, order, bounds
VIEW_BYTES = 250  # per Gaussian in view, until its batch is accumulated: splats and lists of tiles and cells
SAVED = 0.01  # of a memory limit: features that are divided and written at once
QUEUED = 0.3  # of a memory limit: what queued views may take, or one alone


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
        paging: Paging | None = None,
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
            paging: keep the sums on disk and this process within a limit; ``budget`` doesn't count then.

        Raises:
            BudgetError: it would take more.
            BackendError: ``backend`` can't run here.
            OutOfMemoryError: the backend's device has no room for the accumulators.
            FieldError: the codec is for another dimension, or the disk has no room for sums that are paged.
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
        self.paging = paging
        stored = codec.dimension if codec else dimension
        if paging is None:
            check_budget(
                memory_needed(len(gaussians), stored, self.backend),
                budget,
                f"a field of {len(gaussians)} Gaussians × {stored} channels",
                "store fewer channels with a codec (--codec pca:64), raise the budget, or keep the sums on disk "
                "(--memory)",
                already_allocated,
            )
        else:
            _check_paging(paging, len(gaussians), stored)
        try:
            self._sums = self.backend.accumulator(gaussians, stored, paging)
        except OSError as error:
            raise FieldError(
                f"the sums can't be kept in '{paging.folder if paging else ''}': {error.strerror or error}",
                code="field.unwritable",
            ) from error
        self._queue: list[tuple[View, FeatureGrid, Tensor | None]] = []
        self._queued_bytes = 0

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
        paging: Paging | None = None,
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
            paging=paging,
        )
        for first in range(0, len(field), CHUNK):
            rows = slice(first, first + CHUNK)
            weight = field.weight[rows]
            numerator = field.stored(rows) * weight.unsqueeze(1)
            projector._sums.load(AccumulatorState(numerator, weight, field.view_count[rows]), first)
            if paging is not None:
                paging.memory.relieve(field.features)
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
            BudgetError: the view alone shows more Gaussians than fit into the memory limit.
        """
        entry = self._entry(view, grid, valid)
        self._make_room(view)
        self._queue.append(entry)
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

    def _make_room(self, view: View) -> None:
        """Accumulate what is queued where one more view would not fit into the memory limit beside it."""
        if self.paging is None:
            return
        limit = int(QUEUED * self.paging.memory.limit)
        own = VIEW_BYTES * len(view.visible)
        if own > limit:
            raise BudgetError(
                f"a view that shows {len(view.visible)} Gaussians needs {gigabytes(own)}, of the limit of "
                f"{gigabytes(self.paging.memory.limit)} a view may take {gigabytes(limit)}: raise --memory to "
                f"{gigabytes(int(own / QUEUED))}, or leave such views out (--skip)"
            )
        if self._queued_bytes + own > limit:
            self.flush()
        self._queued_bytes += own

    def flush(self) -> None:
        """Accumulate what is queued."""
        queue, self._queue, self._queued_bytes = self._queue, [], 0
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

    def save(self, path: str | Path) -> FeatureField:
        """Write the field so far, and give it. Of paged sums its features are those of the file, mapped.

        Raises:
            FieldError: the file can't be written.
        """
        if self.paging is None:
            field = self.field()
            field.save(path)
            return field
        self.flush()
        rows = max(CHUNK, int(SAVED * self.paging.memory.limit / (4 * self.stored)))
        ends = [*range(0, len(self.gaussians), rows), len(self.gaussians)]
        weight = torch.empty(len(self.gaussians))
        for own, sums in self._sums.blocks(LARGE_CHUNK):  # views of the sums: the numerators stay on disk
            weight[own] = sums.weight

        def features() -> Iterator[Tensor]:
            for first, end in pairwise(ends):
                sums = self._sums.state(first, end)
                yield expected_features(sums.numerator, sums.weight)

        without = self._field_of(torch.empty(0, self.stored), weight, self._sums.view_count())
        without.save(path, TensorBlocks(torch.float32, (len(self.gaussians), self.stored), features()))
        return FeatureField.load(path, values_are_known=True)

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


def _check_paging(paging: Paging, gaussians: int, stored: int) -> None:
    """
    Raises:
        BudgetError: what isn't paged is beyond the memory limit, or sums and field are beyond the free disk.
    """
    work = f"a field of {gaussians} Gaussians × {stored} channels"
    needed = int((PROGRAM_BYTES + ROW_BYTES * gaussians) / (1 - QUEUED))
    check_budget(needed, paging.memory.limit, f"{work}, its sums on disk,", "raise --memory")
    on_disk, free = 2 * 4 * stored * gaussians, shutil.disk_usage(paging.folder).free
    if on_disk > free:
        raise BudgetError(
            f"{work} and its sums take {gigabytes(on_disk)} on the disk of '{paging.folder}', {gigabytes(free)} are "
            "free: make room there, or store fewer channels with a codec (--codec pca:64)"
        )


def memory_needed(gaussians: int, stored: int, backend: BackendChoice = "auto") -> int:
    """Bytes on the host of accumulators, of the field made of them or gone on from, and of a view's work: the peak.

    Where accumulators lie on a card, only the field counts.
    """
    chosen = get_backend(backend)
    field = gaussians * (4 * stored + 4 + 4)
    return field + (chosen.accumulator_bytes(gaussians, stored) if chosen.device.type == "cpu" else 0)
