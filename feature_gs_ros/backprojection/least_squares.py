"""Features by least squares: rendered, they should be what the views show. Needs W and Wᵀ alone, no training loop.

Expected back-projection (Eq. 4) is the first step of this from 0; what it leaves is that a Gaussian at an outline
takes a mixture of both sides although a neighbour explains one of them. `solve_features` compares pixels,
`solve_cells` an extractor's own cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from feature_gs_ros.core.errors import GridError, OutOfMemoryError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.rasterizer import CellOperator, View

BLOCK_BYTES = 256 << 20  # of one rendered image: more channels than fit are solved one block after another

Progress = Callable[[int, int], bool | None]  # iterations done, in all; True stops early
Watch = Callable[[Tensor], bool]  # the solution [N, D] so far; True stops


@dataclass(frozen=True, eq=False)
class Target:
    """What one view should render to."""

    view: View
    grid: FeatureGrid  # F and U
    valid: Tensor | None = None  # m(p) [H, W]; all pixels count by default


@dataclass(frozen=True, eq=False)
class Solution:
    """What `solve_features` found, and how far it got."""

    features: Tensor  # [N, D] float32
    residual: tuple[float, ...]  # norm of the gradient over the start's: before the first iteration, after it, …
    stopped_by: OutOfMemoryError | None = None  # what ended it early; the features are those reached before


def solve_features(
    targets: Sequence[Target],
    start: Tensor,
    anchor: Tensor,
    *,
    iterations: int = 4,
    tolerance: float = 1e-3,
    progress: Progress | None = None,
) -> Solution:
    """Minimise ``½ Σ_v ‖W_v f − U_v F_v‖²_M + ½ Σ_i anchor_i ‖f_i − start_i‖²`` by conjugate gradients.

    The preconditioner is the diagonal ``Wᵀ m + anchor``, which bounds ``Wᵀ M W + diag(anchor)`` row by row. Columns
    are independent of each other; a Gaussian without weight and anchor keeps its start.

    Args:
        start: f0 [N, D], where the search begins and what the anchors hold on to.
        anchor: [N], in pixels of weight, not negative.
        iterations: at most; each renders and back-projects all views once.
        tolerance: of the gradient, relative to the start's, at which the search ends.
        progress: called after each iteration.

    Raises:
        GridError: no target, or shapes that don't fit together.
    """
    _check(targets, start, anchor)
    pixels = max(target.view.camera.width * target.view.camera.height for target in targets)
    step = max(1, BLOCK_BYTES // (4 * pixels))
    blocks = range(0, start.shape[1], step)
    features = start.to(torch.float32).clone()
    history: list[tuple[float, ...]] = []
    for number, first in enumerate(blocks):
        columns = slice(first, first + step)
        narrowed = [_narrowed(target, columns) for target in targets]

        def report(done: int, of: int, number: int = number) -> bool | None:
            return progress(number * of + done, len(blocks) * of) if progress is not None else None

        solved = _solve_block(narrowed, features[:, columns].contiguous(), anchor, iterations, tolerance, report)
        features[:, columns] = solved.features
        history.append(solved.residual)
        if solved.stopped_by is not None:
            break
    residual = tuple(max(residuals) for residuals in zip(*history, strict=False))
    return Solution(features, residual, solved.stopped_by)


def solve_cells(
    targets: Sequence[tuple[CellOperator, Tensor]],
    *,
    start: Tensor | None = None,
    ridge: float = 0.0,
    iterations: int = 4,
    tolerance: float = 1e-3,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Solution:
    """Minimise ``½ Σ_v ‖A_v f − G_v‖² + ½ λ Σ_i a_i ‖f_i − f0_i‖²``, a = diag(Σ Aᵀ1), by conjugate gradients.

    A is a view's operator at the extractor's cells, kept as a sparse matrix (`CellOperator`): a few passes over all
    views, with all channels at once. Stopping early keeps what few cells decide near its expected back-projection.

    Args:
        targets: operators, and the extractor's values [C, D] at their cells.
        start: f0 [N, D]; by default the expected back-projection at the cells, ``Aᵀ G / Aᵀ 1``, for one product more.
        ridge: λ.
        iterations: at most; each multiplies with every A and every Aᵀ once.
        watch: sees the solution before the first iteration and after each; True stops there.

    Raises:
        GridError: no target, or shapes that don't fit together.
    """
    if not targets:
        raise GridError("no view to solve features from", code="grid.empty")
    width, count = targets[0][1].shape[1], targets[0][0].gaussians
    for operator, wanted in targets:
        if tuple(wanted.shape) != (len(operator.cells), width) or operator.gaussians != count:
            raise GridError(
                f"a target is {tuple(wanted.shape)} for {operator.gaussians} Gaussians, expected "
                f"({len(operator.cells)}, {width}) for {count}",
                code="grid.shape",
            )
    if start is not None and tuple(start.shape) != (count, width):
        raise GridError(f"the start has shape {tuple(start.shape)}, expected ({count}, {width})", code="grid.shape")
    ones = [torch.ones(len(operator.cells), 1) for operator, _ in targets]
    # One product for both: the target's and the weight's.
    sums = torch.zeros(count, width + 1)
    for (operator, wanted), one in zip(targets, ones, strict=True):
        sums += operator.adjoint(torch.cat([wanted, one], dim=1))
    numerator, weight = sums[:, :-1], sums[:, -1:]
    inverse = 1 / weight.clamp_min(1e-12)
    solution = numerator * inverse if start is None else start.to(torch.float32)
    anchor = ridge * weight

    def curvature(values: Tensor) -> Tensor:  # (Σ AᵀA + λ diag(Aᵀ1)) v
        result = anchor * values
        for operator, _ in targets:
            result += operator.adjoint(operator.forward(values))
        return result

    if iterations == 0 or (watch is not None and watch(solution)):
        return Solution(solution, (1.0,))
    try:
        with memory_errors():
            residual = numerator + anchor * solution - curvature(solution)
            preconditioner = inverse / (1 + ridge)
    except OutOfMemoryError as error:
        return Solution(solution, (1.0,), error)
    report = progress or (lambda _done, _of: None)
    return _conjugate_gradients(curvature, solution, residual, preconditioner, iterations, tolerance, report, watch)


def _solve_block(
    targets: Sequence[Target],
    start: Tensor,  # [N, B]
    anchor: Tensor,  # [N]
    iterations: int,
    tolerance: float,
    progress: Callable[[int, int], bool | None],
) -> Solution:
    anchor = anchor.to(torch.float32).unsqueeze(1)

    def curvature(values: Tensor) -> Tensor:  # (Wᵀ M W + diag(anchor)) v
        result = anchor * values
        for target in targets:
            image = FeatureGrid(target.view.render(values), interpolation="nearest")
            result += target.view.backproject(image, target.valid)[0]
        return result

    try:
        with memory_errors():
            numerator, weight = torch.zeros_like(start), torch.zeros(len(start))
            for target in targets:
                more, of = target.view.backproject(target.grid, target.valid)
                numerator += more
                weight += of
            inverse = 1.0 / (weight.unsqueeze(1) + anchor).clamp_min(1e-12)
            residual = numerator + anchor * start - curvature(start)
    except OutOfMemoryError as error:
        return Solution(start, (1.0,), error)
    return _conjugate_gradients(curvature, start, residual, inverse, iterations, tolerance, progress)


def _conjugate_gradients(
    curvature: Callable[[Tensor], Tensor],
    solution: Tensor,  # [N, B]
    residual: Tensor,  # [N, B] at the solution
    inverse: Tensor,  # [N, 1] the preconditioner's
    iterations: int,
    tolerance: float,
    progress: Progress,
    watch: Watch | None = None,
) -> Solution:
    """Every column by itself, all at once. Where memory ends, the solution is that of the last whole iteration."""
    history = [1.0]
    try:
        with memory_errors():
            lowered = inverse * residual
            direction = lowered
            energy = (residual * lowered).sum(dim=0)
            first = float(energy.sum())
            for done in range(1, iterations + 1):
                if history[-1] <= tolerance or first <= 0:
                    break
                image = curvature(direction)
                stride = energy / (direction * image).sum(dim=0).clamp_min(1e-20)
                solution = solution + stride * direction
                residual = residual - stride * image
                lowered = inverse * residual
                after = (residual * lowered).sum(dim=0)
                direction = lowered + after / energy.clamp_min(1e-20) * direction
                energy = after
                history.append((float(energy.sum()) / first) ** 0.5)
                if progress(done, iterations) or (watch is not None and watch(solution)):
                    break
    except OutOfMemoryError as error:
        return Solution(solution, tuple(history), error)
    return Solution(solution, tuple(history))


def _narrowed(target: Target, columns: slice) -> Target:
    return replace(target, grid=replace(target.grid, values=target.grid.values[:, :, columns].contiguous()))


def _check(targets: Sequence[Target], start: Tensor, anchor: Tensor) -> None:
    if not targets:
        raise GridError("no view to solve features from", code="grid.empty")
    count = len(targets[0].view.gaussians)
    if start.dim() != 2 or start.shape[0] != count or tuple(anchor.shape) != (count,):
        raise GridError(
            f"start and anchor have shapes {tuple(start.shape)} and {tuple(anchor.shape)}, "
            f"expected ({count}, D) and ({count},)",
            code="grid.shape",
        )
    for target in targets:
        if target.grid.dimension != start.shape[1] or len(target.view.gaussians) != count:
            raise GridError(
                f"a target has {target.grid.dimension} channels for {len(target.view.gaussians)} Gaussians, "
                f"the start is {tuple(start.shape)}",
                code="grid.shape",
            )
    if not (bool(torch.isfinite(start).all()) and bool(torch.isfinite(anchor).all()) and float(anchor.min()) >= 0):
        raise GridError("start and anchor must be finite, and no anchor negative", code="grid.not-finite")
