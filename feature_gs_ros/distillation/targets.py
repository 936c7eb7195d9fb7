"""What is distilled: each view's operator at the teacher's cells, and what the teacher says there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.ingest import UNUSABLE, extract, known_views, pinhole_view
from feature_gs_ros.backprojection.least_squares import solve_cells
from feature_gs_ros.backprojection.pose_check import PoseSanityCheck
from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.errors import OutOfMemoryError, StoppedError, StreamError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import check_budget, memory_errors
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.rasterizer import BackendChoice, CellOperator

COVERED = 0.5  # of a cell that the map must cover for it to be compared
CHECKED = 8  # every so many views one is left out to see how many passes are useful
BYTES_PER_PAIR = 20  # of a cell and a Gaussian, in A and in its transpose

Progress = Callable[[int, int, str], bool | None]  # views done, views in all, name; True stops
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DistillationTarget:
    """One view at the teacher's cells."""

    name: str
    operator: CellOperator
    wanted: Tensor  # [C, D] the teacher's features, or a codec's codes of them


def distillation_targets(
    stream: Stream,
    names: Sequence[str],
    extractor: Extractor,
    gaussians: GaussianMap,
    provenance: Provenance,
    codec: Codec | None = None,
    progress: Progress | None = None,
    backend: BackendChoice = "auto",
) -> list[DistillationTarget]:
    """Operators and targets of the named frames. Frames that can't be used are left out.

    Where memory ends, the targets are those of the views before, and a warning says so: a field of them is of more use
    than none.

    Raises:
        OutOfMemoryError: it ends with the first view.
        StoppedError: ``progress`` stopped it.
        StreamError: none can be used.
        BudgetError: they won't fit into memory.
        CameraError: a lens can't be rectified, or the views see almost nothing of the map.
    """
    targets: list[DistillationTarget] = []
    sight = PoseSanityCheck(stream.source)
    reason = "none was read"
    for done, frame in enumerate(stream.frames(names), start=1):
        try:
            with memory_errors():
                pinhole = pinhole_view(frame, provenance.splat_from_map)
                grid = extract(extractor, pinhole.image, frame)
                view = rasterizer.view(gaussians, pinhole.camera, pinhole.camera_from_splat, backend)
                sight.check(view)
                operator = view.cell_operator(grid, pinhole.valid)
                wanted = operator.target(grid)
                targets.append(DistillationTarget(frame.name, operator, codec.encode(wanted) if codec else wanted))
        except UNUSABLE as error:
            reason = str(error)
        except OutOfMemoryError as error:
            if not targets:
                raise
            log.warning("%s; going on with %d of %d views", error, len(targets), len(names))
            break
        else:
            if len(targets) == 1:
                size = (BYTES_PER_PAIR * operator.nonzeros + 4 * targets[0].wanted.numel()) * len(names)
                check_budget(size, None, f"{len(names)} views", "take fewer (--every), or a coarser teacher")
        if progress is not None and progress(done, len(names), frame.name):
            raise StoppedError(f"stopped after {done} of {len(names)} views")
    sight.finish()
    if not targets:
        raise StreamError(f"no image of '{stream.source}' could be used: {reason}", code="stream.empty")
    return targets


def field_of(
    features: Tensor,  # [N, K]
    targets: Sequence[DistillationTarget],
    teacher: Extractor,
    stream: Stream,
    provenance: Provenance,
    codec: Codec | None = None,
) -> FeatureField:
    """The field of distilled features, with the weights and counts of the views that they came through."""
    weight = torch.stack([target.operator.weight for target in targets])
    names = tuple(target.name for target in targets)
    views = known_views(stream, names, provenance.splat_from_map)
    return FeatureField(
        features.detach().float(),
        weight.sum(0),
        (weight > 0).sum(0).to(torch.int32),
        teacher.identity,
        replace(provenance, frames=names, views=views),
        codec,
    )


def rendered_cosine(
    features: Tensor, targets: Sequence[DistillationTarget], decode: Callable[[Tensor], Tensor] | None = None
) -> float:
    """Mean cosine of what is rendered at the covered cells with what the teacher says there.

    Args:
        features: [N, K].
        decode: [C, K] to [C, D], where K channels stand for the teacher's D.
    """
    cosines = []
    for target in targets:
        before = target.operator.products
        shown = target.operator.forward(torch.cat([features.detach(), torch.ones(len(features), 1)], dim=1))
        target.operator.products = before  # products spent on evaluation are not counted
        coverage = shown[:, -1:]
        values = shown[:, :-1] / coverage.clamp_min(1e-6)
        values = decode(values) if decode is not None else values
        covered = coverage[:, 0] > COVERED
        cosines.append(torch.nn.functional.cosine_similarity(values[covered], target.wanted[covered], dim=1))
    return float(torch.cat(cosines).detach().mean())


def useful_passes(
    targets: Sequence[DistillationTarget], most: int, decode: Callable[[Tensor], Tensor] | None = None
) -> int:
    """How many passes of `solve_cells` gain on views that it isn't shown: every eighth, left out for this.

    The views agree only so far: what the map can't render alike in all of them is soon fitted at the others' cost.
    """
    checked = [target for k, target in enumerate(targets) if k % CHECKED == CHECKED // 2]
    shown = [target for k, target in enumerate(targets) if k % CHECKED != CHECKED // 2]
    if not checked or not shown:
        return 0
    cosines: list[float] = []

    def watch(features: Tensor) -> bool:
        cosines.append(rendered_cosine(features, checked, decode))
        return len(cosines) > 1 and cosines[-1] <= cosines[-2]

    solve_cells([(target.operator, target.wanted) for target in shown], iterations=most, watch=watch)
    return max(range(len(cosines)), key=cosines.__getitem__, default=0)  # none: memory ended
