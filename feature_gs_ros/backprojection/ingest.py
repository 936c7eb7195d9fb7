"""From a recorded stream to a field: every posed image through the extractor and back onto the map."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import KnownView, Provenance
from feature_gs_ros.backprojection.pose_check import PoseSanityCheck
from feature_gs_ros.core.camera import Camera, Frame, Image, distorted_pixels, rectified
from feature_gs_ros.core.errors import ExtractorError, GridError, OutOfMemoryError, StreamError
from feature_gs_ros.core.feature_grid import FeatureGrid, sample
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.extractors.base import Extractor, image_judge, reads_files
from feature_gs_ros.io.streams.registry import Stream

KNOWN_VIEWS = 32  # cameras that a field remembers
UNUSABLE = (StreamError, GridError, ExtractorError)  # a frame that raises these is left out, the others go on


class Accumulator(Protocol):
    """What takes a stream's views: a `BackProjector`, or one behind a lock."""

    @property
    def gaussians(self) -> GaussianMap: ...
    @property
    def provenance(self) -> Provenance: ...
    @property
    def backend(self) -> rasterizer.Backend: ...
    def add(
        self,
        view: rasterizer.View,
        grid: FeatureGrid,
        valid: Tensor | None = None,
        name: str = "",
        image: Image | None = None,
    ) -> None: ...
    def flush(self) -> None: ...


Item = TypeVar("Item")
Progress = Callable[[int, int, str], bool | None]  # views done, views in all, name; True cancels


@dataclass
class Report:
    """What became of a stream's images, and where the time went."""

    used: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)  # by reason
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    cancelled: bool = False
    corrections: dict[str, dict[str, float]] = field(default_factory=dict)  # of poses, by frame: metres and degrees
    doubt: str = ""  # a line for a person, where the images don't look like the map

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def table(self) -> str:
        """Stages with their seconds, seconds a view and fraction."""
        total = sum(self.seconds.values()) or 1.0
        views = max(1, len(self.used))
        lines = [f"{'stage':<16}{'seconds':>9}{'s/view':>9}{'fraction':>8}"]
        for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            lines.append(f"{name:<16}{seconds:>9.2f}{seconds / views:>9.3f}{seconds / total:>8.0%}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class PinholeView:
    """A frame as the operator takes it: rectified, and posed in the splat's frame."""

    image: Image
    camera: Camera
    camera_from_splat: NDArray[np.float64]  # [4, 4]
    valid: Tensor | None  # [H, W] bool, None where every pixel counts


def pinhole_view(frame: Frame, splat_from_map: Sim3) -> PinholeView:
    """Rectify a frame's image and take its pose into the splat's frame.

    Raises:
        StreamError: the image can't be decoded.
        CameraError: the lens can't be rectified.
    """
    image, camera, valid = rectified(frame.image, frame.camera)
    return PinholeView(
        image,
        camera,
        splat_from_map.camera_from_splat(frame.camera_from_world),
        None if valid.all() else torch.tensor(valid),
    )


def extract(extractor: Extractor, image: Image, frame: Frame) -> FeatureGrid:
    """Features of a frame's rectified image [H, W, 3].

    Files by frame name (label images, precomputed features) belong to the image as it was taken: their grids are
    moved as the lens is rectified.
    """
    grid = extractor.extract(image, frame.name)
    if frame.camera.distortion is None or not reads_files(extractor):
        return grid
    return rectified_grid(grid, frame.camera)


def rectified_grid(grid: FeatureGrid, camera: Camera) -> FeatureGrid:
    """A grid over the image as taken, resampled at as many cells over the rectified image."""
    centres_y, centres_x = torch.meshgrid(
        grid.top + (torch.arange(grid.rows) + 0.5) / grid.rows * (grid.bottom - grid.top),
        grid.left + (torch.arange(grid.columns) + 0.5) / grid.columns * (grid.right - grid.left),
        indexing="ij",
    )
    rows = (centres_y * camera.height).long().clamp(0, camera.height - 1).numpy()
    columns = (centres_x * camera.width).long().clamp(0, camera.width - 1).numpy()
    source_x, source_y = distorted_pixels(camera)
    x = (torch.from_numpy(source_x[rows, columns]) + 0.5) / camera.width
    y = (torch.from_numpy(source_y[rows, columns]) + 0.5) / camera.height
    values = sample(grid, x.reshape(-1), y.reshape(-1))
    return replace(grid, values=values.reshape(grid.values.shape))


def ingest(
    stream: Stream,
    names: Sequence[str],
    extractor: Extractor,
    projector: Accumulator,
    *,
    progress: Progress | None = None,
) -> Report:
    """Add the named frames of a stream to a projector; alignment and backend are the projector's.

    Single images that can't be used are skipped and counted by reason.

    Raises:
        CameraError: the views see almost nothing of the map.
        StreamError: the stream is damaged.
    """
    report, pose_check = Report(), PoseSanityCheck(stream.source)
    keeps_looks = image_judge(extractor) is not None  # others have no use for them
    for done, frame in enumerate(_timed(stream.frames(names), report), start=1):
        try:
            with memory_errors():
                with report.stage("decode"):
                    pinhole = pinhole_view(frame, projector.provenance.splat_from_map)
                with report.stage("network"):
                    grid = extract(extractor, pinhole.image, frame)
                with report.stage("back-projection"):
                    view = rasterizer.view(
                        projector.gaussians, pinhole.camera, pinhole.camera_from_splat, projector.backend
                    )
                    pose_check.check(view, pinhole.image)
                    projector.add(view, grid, pinhole.valid, frame.name, pinhole.image if keeps_looks else None)
            report.used.append(frame.name)
        except UNUSABLE as error:
            report.skipped[str(error)] += 1
        except OutOfMemoryError as error:
            _stop_without_memory(report, projector, error)
            break
        if progress is not None and progress(done, len(names), frame.name):
            report.cancelled = True
            break
    pose_check.finish()
    report.doubt = pose_check.doubt
    try:
        with report.stage("back-projection"), memory_errors():
            projector.flush()
    except OutOfMemoryError as error:
        _stop_without_memory(report, projector, error)
    report.skipped.update(stream.skipped)
    return report


def _stop_without_memory(report: Report, projector: Accumulator, error: OutOfMemoryError) -> None:
    """Keep what was accumulated before an allocation failed: the field is saved, and the run can go on from it.

    Raises:
        OutOfMemoryError: that is nothing.
    """
    kept = set(projector.provenance.frames)
    report.used = [name for name in report.used if name in kept]
    if not report.used:
        raise error
    report.skipped[str(error)] += 1
    report.cancelled = True


def choose_frames(stream: Stream, every: int = 1, skip: Sequence[str] = ()) -> list[str]:
    """Names of every n-th frame, without those to be left out, ``skip``.

    Raises:
        StreamError: ``every`` is below 1, a name to be left out matches nothing, or nothing is left.
    """
    names = stream.names()
    unknown = [name for name in skip if name not in names]
    if unknown:
        raise StreamError(
            f"{', '.join(unknown)}, to be left out, matches no frame of '{stream.source}'; frames: {some(names)}",
            code="stream.missing",
        )
    if every < 1:
        raise StreamError(f"every={every} is out of range; give 1 or more", code="stream.range")
    chosen = [name for name in names if name not in set(skip)][::every]
    if not chosen:
        raise StreamError(f"no frame of '{stream.source}' is left: all {len(names)} are left out", code="stream.empty")
    return chosen


def known_views(
    stream: Stream, names: Sequence[str], splat_from_map: Sim3, count: int = KNOWN_VIEWS
) -> tuple[KnownView, ...]:
    """Cameras of up to ``count`` of the named frames, spread over them, as a field remembers them."""
    picked = evenly_spaced(names, count)
    return tuple(
        KnownView(
            frame.name,
            replace(frame.camera, distortion=None),
            splat_from_map.camera_from_splat(frame.camera_from_world),
        )
        for frame in stream.frames(picked)
    )


def sample_cells(stream: Stream, names: Sequence[str], extractor: Extractor, count: int = 8) -> Tensor:
    """Features [M, D] of a few frames' grids, spread over the stream, to fit a codec on.

    Frames that can't be used are left out; where all of the few can't, any others are taken.

    Raises:
        StreamError: no frame can be used, or the stream is damaged.
    """
    reason = "none was read"
    for chosen in (evenly_spaced(names, count), names):
        cells: list[Tensor] = []
        for frame in stream.frames(chosen):
            try:
                image, _, _ = rectified(frame.image, frame.camera)
                values = extract(extractor, image, frame).values
            except UNUSABLE as error:
                reason = str(error)
                continue
            cells.append(values.reshape(-1, values.shape[2]))
            if len(cells) == count:
                break
        if cells:
            return torch.cat(cells)
    raise StreamError(f"no image of '{stream.source}' could be used: {reason}", code="stream.empty")


def evenly_spaced(items: Sequence[Item], count: int = KNOWN_VIEWS) -> tuple[Item, ...]:
    """Up to ``count`` of the items at even steps."""
    step = max(1.0, len(items) / count)
    return tuple(items[int(k * step)] for k in range(min(count, len(items))))


def some(names: Sequence[str], limit: int = 8) -> str:
    """A few names for a message."""
    return ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")


def counted(skipped: Mapping[str, int]) -> str:
    """Reasons with their counts, for a message."""
    return "; ".join(f"{count} × {reason}" for reason, count in skipped.items())


def _timed(frames: Iterator[Frame], report: Report) -> Iterator[Frame]:
    while True:
        with report.stage("read"):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame
