"""W made differentiable: colour, opacity and extra signals in one pass, with gradients to the whole map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera, check_pose
from feature_gs_ros.core.errors import GridError, MapError
from feature_gs_ros.rasterizer.base import Rendering
from feature_gs_ros.rasterizer.cuda.kernels import backward as kernels
from feature_gs_ros.rasterizer.cuda.kernels import spherical_harmonics
from feature_gs_ros.rasterizer.cuda.pairs import Pairs, pair_tiles
from feature_gs_ros.rasterizer.cuda.product import Sums, add_batches, plan_batch
from feature_gs_ros.rasterizer.cuda.projection import DeviceMap, Projection, eye_of, lens_of, project
from feature_gs_ros.rasterizer.cuda.render import render_values
from feature_gs_ros.rasterizer.cuda.runtime import BLOCK, launch, out_of_memory, vectors
from feature_gs_ros.rasterizer.cuda.weights import plan_blocks
from feature_gs_ros.rasterizer.tiling import pixel_layout

MOMENTS = 12  # per Gaussian, nine of them used: sums over pixels come in fours
SPLAT_GRADIENTS = 9  # mean x, y, conic a, b, c, opacity, red, green, blue


def render_with_gradients(
    device: torch.device,
    means: Tensor,  # [N, 3]
    quats_wxyz: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    sh: Tensor,  # [N, K, 3]
    camera: Camera,
    camera_from_splat: NDArray[np.float64],
    extra_signals: Tensor | None = None,  # [N, C]
    means2d: Tensor | None = None,  # [N, 2]
    extra_shapes: bool = True,
) -> Rendering:
    """Render on a device what `CudaView` renders; see `Backend.render_with_gradients`."""
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
    arguments = (
        means,
        torch.nn.functional.normalize(quats_wxyz, dim=1),
        scales,
        opacities,
        sh,
        extra_signals if extra_signals is not None else means.new_zeros(count, 0),
        means2d if means2d is not None else means.new_zeros(count, 2),
    )
    pose = check_pose(camera_from_splat, "the view")
    with out_of_memory(device, f"training {count} Gaussians"):
        results = _Rasterise.apply(  # type: ignore[no-untyped-call]
            *(argument.to(device, torch.float32) for argument in arguments), camera, pose, extra_shapes
        )
    image, extra, rows, radii = (result.to(means.device) for result in results)
    return Rendering(image[:, :, :3], image[:, :, 3], extra if extra_signals is not None else None, rows, radii)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What the backward pass needs of the forward one."""

    geometry: DeviceMap
    sh: Tensor  # [N, K, 3]
    projection: Projection
    pairs: Pairs
    colors: Tensor  # [V, 4]
    extra: Tensor  # [V, C]
    image: Tensor  # [H, W, 4]
    extra_image: Tensor  # [H, W, C]
    camera: Camera
    pose: NDArray[np.float64]


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
        means, quats, scales, opacities, sh, extra = (
            tensor.detach().contiguous() for tensor in (means, quats, scales, opacities, sh, extra)
        )
        every = torch.arange(len(means), dtype=torch.int32, device=means.device)
        geometry = DeviceMap(every, means, quats, scales, opacities)
        projection = project(geometry, camera, pose)
        pairs = pair_tiles(projection, pixel_layout(camera.width, camera.height))
        colors = torch.ones(len(projection), 4, device=means.device)
        arrays = (projection.rows, vectors(means), sh, eye_of(pose), colors)
        launch(spherical_harmonics.colors, (len(projection), 3), means.device, *arrays)
        visible = extra.index_select(0, projection.rows)
        image = render_values(pairs, colors, 0, camera.height)
        extra_image = render_values(pairs, visible, 0, camera.height)
        images = (image.detach(), extra_image.detach())  # themselves they would hold the graph that holds them
        ctx.drawn = _Drawn(geometry, sh, projection, pairs, colors, visible, *images, camera, pose)
        radii = projection.splats[:, 6:8].amax(dim=1)
        rows = projection.rows.long()
        ctx.mark_non_differentiable(rows, radii)
        return image, extra_image, rows, radii

    @staticmethod
    def backward(ctx: Any, d_image: Tensor, d_extra_image: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        drawn: _Drawn = ctx.drawn
        d_image, d_extra_image = d_image.contiguous(), d_extra_image.contiguous()
        d_extra = None
        with out_of_memory(d_image.device, "gradients"):
            if ctx.needs_input_grad[5]:
                d_extra = _extra_back(drawn, d_extra_image)
            on_splats = _blend_back(drawn, d_image, d_extra_image, ctx.extra_shapes)
            d_means, d_quats, d_scales, d_opacities, d_sh, d_means2d = _map_back(drawn, on_splats)
        return d_means, d_quats, d_scales, d_opacities, d_sh, d_extra, d_means2d, None, None, None


def _extra_back(drawn: _Drawn, d_extra_image: Tensor) -> Tensor:
    """The gradient of extra signals is back-projection itself: Wᵀ of the image's gradient, a cell per pixel, [N, C]."""
    camera, channels, count = drawn.camera, d_extra_image.shape[2], len(drawn.sh)
    gradient = torch.zeros(count, channels, device=d_extra_image.device)
    if channels == 0:
        return gradient
    sums = Sums(gradient, gradient.new_zeros(count), torch.zeros(count, dtype=torch.int32, device=gradient.device))
    layout = pixel_layout(camera.width, camera.height)
    cells = d_extra_image.reshape(-1, channels)
    parts = plan_blocks(drawn.projection, drawn.pairs, layout, None)
    add_batches([plan_batch([part], [drawn.projection], [cells]) for part in parts], sums, 1)
    return gradient


def _blend_back(drawn: _Drawn, d_image: Tensor, d_extra_image: Tensor, through_extra: bool) -> Tensor:
    """∂L/∂splats and ∂L/∂colours, [V, 9]."""
    count, device = len(drawn.projection), d_image.device
    channels = d_extra_image.shape[2] if through_extra else 0
    moments = torch.zeros(count * MOMENTS, device=device)
    extras = (drawn.extra[:, :channels], drawn.extra_image[:, :, :channels], d_extra_image[:, :, :channels])
    images = (drawn.colors, drawn.image, d_image, *extras, moments)
    launch(kernels.blend_back, drawn.pairs.layout.tiles * BLOCK, device, drawn.pairs.tiles, *images)
    on_splats = torch.empty(count, SPLAT_GRADIENTS, device=device)
    launch(kernels.splats_back, count, device, drawn.projection.splats, moments, on_splats)
    return on_splats


def _map_back(drawn: _Drawn, on_splats: Tensor) -> tuple[Tensor, ...]:
    """∂L/∂ means, quaternions, scales, opacities, SH and means on the image."""
    geometry, rows, count = drawn.geometry, drawn.projection.rows, len(drawn.projection)
    device = rows.device
    inputs = (geometry.means, geometry.quats_wxyz, geometry.scales)
    d_means, d_quats, d_scales, d_opacities, d_sh = (
        torch.zeros_like(tensor) for tensor in (*inputs, geometry.opacities, drawn.sh)
    )
    d_means2d = torch.zeros(len(geometry.means), 2, device=device)
    lens = lens_of(drawn.camera, drawn.pose)
    seen = (rows, drawn.projection.splats, on_splats, *map(vectors, inputs), lens)
    results = (vectors(d_means), vectors(d_quats), vectors(d_scales), d_opacities, vectors(d_means2d))
    launch(kernels.project_back, count, device, *seen, *results)
    means, eye, back = vectors(geometry.means), eye_of(drawn.pose), (drawn.colors, on_splats)
    launch(spherical_harmonics.harmonics_back, (count, 3), device, rows, means, eye, *back, d_sh)
    launch(spherical_harmonics.direction_back, count, device, rows, means, drawn.sh, eye, *back, vectors(d_means))
    return d_means, d_quats, d_scales, d_opacities, d_sh, d_means2d
