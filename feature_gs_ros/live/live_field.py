"""LiveField: the map with its growing field; ingestion writes it while queries read snapshots of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField, KnownView, Provenance
from feature_gs_ros.backprojection.looks import LookLimits, Looks
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.errors import FieldError, StoppedError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.editing import EditStack
from feature_gs_ros.extractors.base import Extractor, image_judge
from feature_gs_ros.identity.answers import Identities
from feature_gs_ros.io.atomic import atomic_files
from feature_gs_ros.live.live_segmenter import Accumulated, LiveSegmenter
from feature_gs_ros.live.shown_map import ShownMap
from feature_gs_ros.numerics.device import Card, card_of
from feature_gs_ros.numerics.streams import OrderedLock, inserted
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.smoothing import GaussianGraph
from feature_gs_ros.rasterizer import Backend, View, view

BATCH = 4  # views accumulated at once where they come that fast
LIVE = "live"  # the recording that frames are of which came by topic
REMEMBERED = 64  # cameras that the field remembers at most, for outward normals and for pictures


@dataclass(frozen=True, eq=False)
class LiveMap:
    """What a field is learned for and with; it doesn't change while the node is active."""

    gaussians: GaussianMap
    path: str
    splat_from_map: Sim3
    extractor: Extractor
    backend: Backend
    budget: int | None  # bytes; None: most of what is free
    looks: LookLimits = field(default_factory=LookLimits)  # images of views that the field keeps

    def view(self, camera: Camera, camera_from_map: NDArray[np.float64], gaussians: GaussianMap | None = None) -> View:
        """A pinhole camera's view of the map, or of an edited one, from a pose [4, 4] in the map frame."""
        pose = self.splat_from_map.camera_from_splat(camera_from_map)
        return view(gaussians or self.gaussians, camera, pose, self.backend)


@dataclass(frozen=True)
class Measured:
    """What only the device knows, as whoever last added views found it: a status is made of it without waiting."""

    coverage: float  # opacity-weighted fraction of the map that was seen
    card: Card


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A copy of the field, and of the edits, that later ones don't change."""

    version: int  # of the accumulators
    segmenter: Segmenter
    shown: ShownMap  # with the edits of that moment
    identities: Identities | None  # of what is shown, where the field holds identity codes

    @property
    def views(self) -> int:
        """How many views it rests on."""
        return len(self.segmenter.field.provenance.frames)

    @property
    def cloud_fields(self) -> Mapping[str, Tensor]:
        """What a cloud says beside the usual, [N] each: the objects' ids, where they are known."""
        return {} if self.identities is None else {"label": self.identities.labels}


class LiveField:
    """Accumulators behind a lock, and one snapshot of them for all queries until the next view comes.

    The accumulators' lock is held while a view is added, while their sums are scored for a question in words, and while
    a snapshot is copied for others; not while an answer is made of the scores.
    """

    def __init__(self, live_map: LiveMap) -> None:
        """Start empty.

        Raises:
            BudgetError: the field would need more memory than it may take.
        """
        self.map = live_map
        self.gaussians = live_map.gaussians
        self.edits = EditStack(live_map.gaussians, live_map.splat_from_map.inverse())
        self.shown = ShownMap.of(self.edits.edited())  # what clouds, boxes and pictures show
        self._keeps_looks = image_judge(live_map.extractor) is not None  # others have no use for them
        self._lock = OrderedLock(live_map.backend.device)
        self._copying = threading.Lock()
        self._version = 0  # of the accumulators
        self._replace(self._empty(), 0.0)
        self._snapshot: Snapshot | None = None
        self._holds_identities = live_map.extractor.identity.name == "identity"
        rule = live_map.extractor.text_rule
        self._graph = GaussianGraph.of(live_map.gaussians) if rule.smoothing_rate > 0 else None

    @property
    def _projector(self) -> BackProjector:
        return self._accumulated.projector

    @property
    def provenance(self) -> Provenance:
        return self._projector.provenance

    @property
    def backend(self) -> Backend:
        return self.map.backend

    @property
    def views(self) -> int:
        """How many views were accumulated, those of a loaded field included."""
        return len(self._projector.provenance.frames)

    def add(
        self,
        view: View,
        grid: FeatureGrid,
        valid: Tensor | None = None,
        name: str = "",
        image: Image | None = None,
    ) -> None:
        """Add a view, as `BackProjector.add` does; it counts at the latest from the next `flush`."""
        with self._lock:
            self._version += 1
            self._accumulated.changed(view.visible)
            self._projector.add(view, grid, valid, name, image if self._keeps_looks else None)
            known = KnownView(name, view.camera, view.camera_from_splat)
            self._projector.provenance = remembering(self._projector.provenance, known)

    def flush(self) -> None:
        """Accumulate what waits for a full batch, and look up what is `measured`; waits for the device."""
        with self._lock:
            self._projector.flush()
            self.measured = Measured(self._projector.coverage(), card_of(self.backend.device))

    def question(self) -> Snapshot:
        """What a question in words is asked of: the accumulators themselves, where no snapshot of them is there.

        Nothing is copied. Views go on being added before and after the accumulators are read, never in between, so an
        answer rests on whole views.
        """
        snapshot, shown = self._snapshot, self.shown
        current = snapshot is not None and (snapshot.version, snapshot.shown) == (self._version, shown)
        if current or self._holds_identities:
            return self.snapshot()
        with self._lock:
            segmenter = LiveSegmenter(self._accumulated, self.map.extractor, self._graph)
            return Snapshot(self._version, segmenter, shown, None)

    def snapshot(self) -> Snapshot:
        """The field as it is now, to be asked; made once for all questions between two views or edits.

        Its features stay on the card where the sums lie on one.
        """
        with self._copying:
            shown = self.shown
            if self._snapshot is None or self._snapshot.version != self._version:
                self._snapshot = None  # give its memory back before the next copy
                field, version = self._copy()
                segmenter = Segmenter(self.gaussians, field, self.map.extractor, self._graph)
            elif self._snapshot.shown is not shown:
                segmenter, version = self._snapshot.segmenter, self._snapshot.version
            else:
                return self._snapshot
            known = shown.known_field(segmenter.field) if self._holds_identities else None
            identities = None if known is None else Identities(shown.gaussians, known)
            self._snapshot = Snapshot(version, segmenter, shown, identities)
            return self._snapshot

    def cloud_fields(self) -> Mapping[str, Tensor]:
        """What a cloud of the whole map says beside the usual; no snapshot is made where that is nothing."""
        return self.snapshot().cloud_fields if self._holds_identities else {}

    def save(self, path: Path, stop: Callable[[str], bool] = lambda step: False) -> FeatureField:  # noqa: ARG005
        """Write the field as it is now, and the edits beside it.

        Args:
            path: of the file.
            stop: hears of each step as it begins, "snapshot", "write" and "replace"; True stops.

        Raises:
            FieldError, EditError: a file can't be written.
            StoppedError: before the files were replaced.
        """

        def begin(step: str) -> None:
            if stop(step):
                raise StoppedError(f"stopped before the step '{step}': '{path}' is as it was")

        begin("snapshot")
        field = self.snapshot().segmenter.field
        begin("write")
        try:
            with atomic_files(path, edits_beside(path)) as (field_file, edits_file):
                field.save(field_file)
                self.edits.save(edits_file)
                begin("replace")
        except OSError as error:
            raise FieldError(
                f"can't write the field '{path}': {error.strerror or error}", code="field.unwritable"
            ) from error
        return field

    def load(self, path: Path) -> None:
        """Go on from a saved field and the edits beside it; what was learned so far stays where that fails.

        Raises:
            FieldError, EditError: a file is damaged, or of another map or extractor.
            BudgetError: it would need more memory than it may take.
        """
        field, edits = FeatureField.load(path), self._edits_beside(path)
        self.resume(field)
        self.edits = edits
        self.show_edits()

    def load_edits(self, path: Path) -> None:
        """Apply the edits that were saved beside a field.

        Raises:
            EditError: the file is damaged, or of another map.
        """
        self.edits = self._edits_beside(path)
        self.show_edits()

    def show_edits(self) -> None:
        """Answers from now on are of the map with its edits as they are now."""
        self.shown = ShownMap.of(self.edits.edited())

    def resume(self, field: FeatureField) -> None:
        """Go on from a field; the one learned so far stays where that fails.

        Raises:
            FieldError: it is of another map or extractor.
            BudgetError: it would need more memory than it may take.
        """
        field.check_extractor(self.map.extractor.identity)
        with inserted("ingestion", self.map.backend.device):
            projector = BackProjector.resume(
                self.gaussians, field, batch=BATCH, budget=self.map.budget, backend=self.map.backend
            )
        going_on = projector.provenance.going_on_with(LIVE)
        projector.provenance = replace(going_on, splat_from_map=self.map.splat_from_map)
        projector.looks = projector.looks.within(self.map.looks)
        self._replace(projector, field.coverage(self.gaussians))

    def reset(self) -> int:
        """Forget all views; how many there were."""
        views = self.views
        self._replace(self._empty(), 0.0)
        return views

    def keep_findings(self, findings: tuple[Finding, ...]) -> None:
        """Remember with the field what is doubtful about its live views."""
        with self._lock:
            doubted = self.doubted(findings)
            self._version += doubted is not self.provenance  # a snapshot has it, too
            self._projector.provenance = doubted

    def doubted(self, findings: tuple[Finding, ...]) -> Provenance:
        """Where it comes from, with findings about its live views; of what it knows to be doubtful, nothing new."""
        known = {finding.code for finding in self.provenance.findings}
        new = tuple(finding for finding in findings if finding.code not in known)
        return self.provenance.with_findings(new) if new else self.provenance

    def coverage(self) -> float:
        """Opacity-weighted fraction of the map that was seen, as of the last `flush`."""
        return self.measured.coverage

    def memory(self) -> int:
        """Bytes of accumulators, snapshot and looks."""
        snapshot = self._snapshot
        row = 4 * (self._projector.stored + 2)
        return len(self.gaussians) * row * (1 if snapshot is None else 2) + self._projector.looks.memory

    def _edits_beside(self, path: Path) -> EditStack:
        map_from_splat, saved = self.map.splat_from_map.inverse(), edits_beside(path)
        if saved.exists():
            return EditStack.load(saved, self.gaussians, map_from_splat)
        return EditStack(self.gaussians, map_from_splat)

    def _copy(self) -> tuple[FeatureField, int]:
        with self._lock:
            return self._projector.field(resident=True), self._version

    def _replace(self, projector: BackProjector, coverage: float) -> None:
        with self._lock, inserted("ingestion", self.map.backend.device):
            self._accumulated = Accumulated(projector, self.map.extractor, self._lock)
            self.measured = Measured(coverage, card_of(self.backend.device))
            self._version += 1

    def _empty(self) -> BackProjector:
        provenance = Provenance(
            self.gaussians.checksum,
            self.map.path,
            stream=LIVE,
            splat_from_map=self.map.splat_from_map,
            map_notes=self.gaussians.notes,
        )
        extractor = self.map.extractor
        with inserted("ingestion", self.map.backend.device):  # which fills what is made here
            return BackProjector(
                self.gaussians,
                extractor.identity,
                extractor.dimension,
                batch=BATCH,
                budget=self.map.budget,
                provenance=provenance,
                looks=Looks(self.map.looks),
                backend=self.map.backend,
            )


def edits_beside(path: Path) -> Path:
    """The file of the edits that go with a field's."""
    return path.with_name(path.name + ".edits")


def remembering(provenance: Provenance, known: KnownView) -> Provenance:
    """With one more camera; of too many, every other one is left out."""
    views = (*provenance.views, known)
    return replace(provenance, views=views if len(views) <= REMEMBERED else views[::2])
