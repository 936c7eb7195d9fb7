"""W made differentiable: colour, opacity and extra signals of any width in one pass, with gradients to the whole map.

The forward pass is the rasteriser's own, so what is trained here looks the same to `CpuView`. Projection, colours and
blending have hand-written backward passes (kernels/backward.py, kernels/chain.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera, check_pose
from feature_gs_ros.core.errors import GridError, MapError
from feature_gs_ros.core.geometry import camera_centre
from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.base import Rendering
from feature_gs_ros.rasterizer.cpu.arrays import (
    Bins,
    ColorGradient,
    ExtraGradient,
    Floats,
    Geometry,
    MapGradients,
    PairRows,
    Tiles,
)
from feature_gs_ros.rasterizer.cpu.constants import COLORED, RADIUS_X, RADIUS_Y, SPLAT_GRADIENTS, WIDE
from feature_gs_ros.rasterizer.cpu.kernels import backward as kernels
from feature_gs_ros.rasterizer.cpu.kernels import chain
from feature_gs_ros.rasterizer.cpu.projection import Projection, kernel_camera, project_arrays
from feature_gs_ros.rasterizer.cpu.render import render_with_extra, whole_vectors
from feature_gs_ros.rasterizer.cpu.spherical_harmonics import colors_from_sh
from feature_gs_ros.rasterizer.cpu.tiles import bin_pairs
from feature_gs_ros.rasterizer.tiling import Layout, pixel_layout

COLOR = 4  # red, green, blue, opacity


def render_with_gradients(
    means: Tensor,  # [N, 3] splat frame
    quats_wxyz: Tensor,  # [N, 4] any length but zero
    scales: Tensor,  # [N, 3] linear
    opacities: Tensor,  # [N] linear
    sh: Tensor,  # [N, K, 3]
    camera: Camera,
    camera_from_splat: NDArray[np.float64],
    extra_signals: Tensor | None = None,  # [N, C]
    means2d: Tensor | None = None,  # [N, 2]
    extra_shapes: bool = True,
) -> Rendering:
    """`Backend.render_with_gradients` on the CPU, float32; rows along a Z-curve are fastest."""
    count = len(means)
    shapes = [tuple(tensor.shape) for tensor in (means, quats_wxyz, scales, opacities)]
    if shapes != [(count, 3), (count, 4), (count, 3), (count,)] or sh.dim() != 3 or sh.shape[::2] != (count, 3):
        raise MapError(
            f"means, quaternions, scales, opacities and SH have shapes {shapes} and {tuple(sh.shape)}", code="map.shape"
        )
    if extra_signals is not None and (extra_signals.dim() != 2 or len(extra_signals) != count):
        raise GridError(
            f"the extra signals have shape {tuple(extra_signals.shape)}, expected ({count}, C)", code="grid.shape"
        )
    image, features, rows, radii = _Rasterise.apply(  # type: ignore[no-untyped-call]
        means,
        torch.nn.functional.normalize(quats_wxyz, dim=1),
        scales,
        opacities,
        sh,
        extra_signals if extra_signals is not None else means.new_zeros(count, 0),
        means2d if means2d is not None else means.new_zeros(count, 2),
        camera,
        check_pose(camera_from_splat, "the view"),
        extra_shapes,
    )
    return Rendering(image[:, :, :3], image[:, :, 3], features if extra_signals is not None else None, rows, radii)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What the backward pass needs of the forward one."""

    geometry: Geometry
    sh: Floats  # [N, K, 3]
    projection: Projection
    layout: Layout
    bins: Bins
    colors: Floats  # [V, 4]
    extra: Floats  # [V, C]
    image: Floats  # [H, W, 4]
    features: Floats  # [H, W, C]
    camera: Camera
    pose: NDArray[np.float64]

    @property
    def eye(self) -> Floats:
        """The camera's centre in the splat's frame, [3]."""
        centre: Floats = camera_centre(self.pose).astype(np.float32)
        return centre


class _Rasterise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        sh: Tensor,
        extra: Tensor,
        means2d: Tensor,  # noqa: ARG004 - only its gradient is of use
        camera: Camera,
        pose: NDArray[np.float64],
        extra_shapes: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.extra_shapes = extra_shapes
        geometry, coefficients = Geometry(*map(_floats, (means, quats, scales, opacities))), _floats(sh)
        projection = project_arrays(geometry, camera, pose)
        layout = pixel_layout(camera.width, camera.height)
        bins = bin_pairs(projection, layout)
        eye = camera_centre(pose).astype(np.float32)
        rows = projection.rows
        colors = np.ones((len(rows), COLOR), np.float32)
        colors[:, :3] = colors_from_sh(coefficients, geometry.means, eye, rows)
        carried = _floats(extra)[rows]
        image, features = render_with_extra(projection, layout, bins, colors, carried)
        ctx.drawn = _Drawn(
            geometry, coefficients, projection, layout, bins, colors, carried, image, features, camera, pose
        )
        indices = torch.from_numpy(rows.astype(np.int64))
        radii = torch.from_numpy(projection.splats[:, [RADIUS_X, RADIUS_Y]].max(axis=1, initial=0.0))
        ctx.mark_non_differentiable(indices, radii)
        return torch.from_numpy(image), torch.from_numpy(features), indices, radii

    @staticmethod
    def backward(ctx: Any, d_image: Tensor, d_features: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        drawn: _Drawn = ctx.drawn
        rows, means = drawn.projection.rows, drawn.geometry.means
        d_extra = np.zeros((len(means), drawn.extra.shape[1]), np.float32)
        if ctx.needs_input_grad[5] and d_extra.shape[1] > 0:
            on_splats = _extra_back(drawn, _floats(d_image), _floats(d_features), ctx.extra_shapes, d_extra)
        else:
            color = ColorGradient(drawn.colors, drawn.image, _floats(d_image))
            on_splats = _pairs_back(drawn, COLORED, kernels.color_gradients, (color,))
        d_means, d_quats, d_scales, d_opacities = (np.zeros_like(array) for array in drawn.geometry)
        d_means2d = np.zeros((len(means), 2), np.float32)
        gradients = MapGradients(d_means, d_quats, d_scales, d_opacities, d_means2d)
        d_sh = np.zeros_like(drawn.sh)
        seen = (rows, drawn.projection.splats, on_splats, drawn.geometry, kernel_camera(drawn.camera, drawn.pose))
        parallel_for(len(rows), 4096, lambda i, j: chain.project_back(i, j, *seen, gradients))
        colored = (rows, drawn.colors, on_splats[:, SPLAT_GRADIENTS:COLORED], drawn.sh, means, drawn.eye)
        parallel_for(len(rows), 4096, lambda i, j: chain.colors_back(i, j, *colored, d_sh, gradients.means))
        of_inputs = (d_means, d_quats, d_scales, d_opacities, d_sh, d_extra, d_means2d)
        return (*(torch.from_numpy(gradient) for gradient in of_inputs), None, None, None)


def _extra_back(drawn: _Drawn, d_image: Floats, d_features: Floats, shapes: bool, d_extra: Floats) -> Floats:
    """Fill the extra signals' gradient [N, C], `WIDE` channels a walk; returns that of splats and colours, [V, 9]."""
    on_splats = np.zeros((len(drawn.projection), COLORED), np.float32)
    for first in range(0, d_extra.shape[1], WIDE):
        part = np.s_[..., first : first + WIDE]
        d_colors = d_image if first == 0 else np.zeros_like(d_image)  # each walk has its own part of the splats'
        extra = whole_vectors(drawn.extra[part], WIDE)
        color = ColorGradient(drawn.colors, drawn.image, d_colors)
        wide = ExtraGradient(extra, drawn.features[part], d_features[part], shapes)
        block = _pairs_back(drawn, COLORED + WIDE, kernels.extra_gradients, (color, wide))
        on_splats += block[:, :COLORED]
        d_extra[drawn.projection.rows, first : first + WIDE] = block[:, COLORED:][:, : d_extra.shape[1] - first]
    return on_splats


def _pairs_back(drawn: _Drawn, width: int, walk: Any, images: tuple[Any, ...]) -> Floats:
    """Walk all tiles, and sum what their pairs give to each projected Gaussian, [V, width].

    A tile's pairs that were drawn lie side by side from its first entry on, so that memory is touched for these alone.
    """
    bins, tiles, splats = drawn.bins, Tiles.of(drawn.layout), drawn.projection.splats
    pairs = PairRows(np.empty((bins.pairs, width), np.float32), np.full(bins.pairs, -1, np.int32))
    parallel_for(drawn.layout.tiles, 16, lambda i, j: walk(i, j, splats, bins, tiles, *images, pairs))
    totals = np.zeros((len(drawn.projection), width), np.float32)
    parallel_for(len(totals), 4096, lambda i, j: kernels.sum_pairs(i, j, bins.slots, pairs, totals))
    return totals


def _floats(tensor: Tensor) -> Floats:
    array: Floats = np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)
    return array
