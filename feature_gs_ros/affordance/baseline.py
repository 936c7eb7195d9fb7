"""2D-2D-3D transfer, the baseline of section 4.3: sources to every view, then the views' masks to the map by votes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.affordance.library import Library
from feature_gs_ros.affordance.nearest import nearest_patches
from feature_gs_ros.affordance.transfer import DEFAULTS, Settings, Transfer, count_votes, voters
from feature_gs_ros.backprojection.field import MIN_WEIGHT, FeatureField
from feature_gs_ros.core.errors import StoppedError
from feature_gs_ros.core.feature_grid import FeatureGrid, upsample
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer import View


def transfer_by_views(
    gaussians: GaussianMap,
    field: FeatureField,
    library: Library,
    views: Iterable[tuple[View, FeatureGrid, Tensor | None]],
    settings: Settings = DEFAULTS,
    progress: Callable[[int], object] | None = None,
) -> Transfer:
    """Label the cells of every view by their nearest patches, then let each view's masks vote by masked gradients.

    A Gaussian takes the label with the most of its weight, ``argmax_c Σ_v Wᵀ M_c``; with one affordance that is
    ``Wᵀ M > Wᵀ (1 − M)``. Nothing is regularised.

    Args:
        field: only for what was seen, and the extractor.
        views: each with its features by the library's extractor, and the pixels [H, W] that count, None for all.
        progress: called with the views done; True stops.

    Raises:
        StoppedError: ``progress`` stopped it.
        AffordanceError: as for `transfer`.
        GridError: a view's features don't fit.
    """
    start = time.perf_counter()
    field.check_map(gaussians)
    library.check_extractor(field.extractor)
    affordances, features, fractions = voters(library)
    floor = library.floor if settings.floor is None else settings.floor
    votes = torch.zeros(len(gaussians), 1 + len(affordances))
    cosines, weight = torch.zeros(len(gaussians)), torch.zeros(len(gaussians))
    for done, (view, grid, valid) in enumerate(views, start=1):
        masks = view_masks(grid, features, fractions, settings, floor, view.camera.width, view.camera.height)
        sums, total = view.backproject(masks, valid)
        votes += sums[:, :-1]
        cosines += sums[:, -1]
        weight += total
        if progress is not None and progress(done):
            raise StoppedError(f"stopped after {done} views")
    seen = weight > 0
    votes[~seen, 0] = 1.0
    return Transfer(
        affordances,
        votes / votes.sum(dim=1, keepdim=True),
        cosines / weight.clamp_min(MIN_WEIGHT),
        torch.zeros_like(seen),
        seen,
        field.coverage(gaussians),
        time.perf_counter() - start,
    )


def view_masks(
    grid: FeatureGrid, features: Tensor, fractions: Tensor, settings: Settings, floor: float, width: int, height: int
) -> FeatureGrid:
    """A view's masks, one of them 1 at each pixel, and the cosine they were found with: [height, width, 1 + A + 1].

    Args:
        grid: the view's features.
        features, fractions: of the patches, [M, D] and [M, 1 + A].
    """
    cells = grid.values.reshape(-1, grid.dimension).float()
    similar, index = nearest_patches(lambda rows: cells[rows], len(cells), features, settings.k)
    votes = count_votes(similar, index, fractions, settings.vote)
    votes[similar[:, 0] < floor] = functional.one_hot(torch.tensor(0), fractions.shape[1]).float()
    found = torch.cat([votes, similar[:, :1]], dim=1).reshape(grid.rows, grid.columns, -1)
    pixels = upsample(replace(grid, values=found), height, width).reshape(height * width, -1)
    masks = functional.one_hot(pixels[:, :-1].argmax(dim=1), fractions.shape[1]).float()
    values = torch.cat([masks, pixels[:, -1:]], dim=1).reshape(height, width, -1)
    return FeatureGrid(values, interpolation="nearest")
