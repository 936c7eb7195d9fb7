"""Segment anything from a rendered view (Feature 3DGS, section 3.3): SAM's decoder on the embedding of any view.

The encoder, which is nearly all of SAM's time, isn't run: its embedding was back-projected, and is rendered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.sam import CELLS, DIMENSION, SIDE, SamExtractor, fitted
from feature_gs_ros.extractors.sam_masks import PromptedMasks, padded, prompted_masks, rendered_size
from feature_gs_ros.rasterizer import BackendChoice


def segment_rendered_view(
    sam: SamExtractor,
    gaussians: GaussianMap,
    field: FeatureField,
    camera: Camera,
    camera_from_splat: NDArray[np.float64],  # [4, 4]
    points: NDArray[np.floating] | None = None,
    labels: Sequence[int] | None = None,
    box: Sequence[float] | None = None,
    backend: BackendChoice = "auto",
) -> PromptedMasks:
    """SAM's masks, best first, of points or a box in a view that no camera needs to have seen.

    Args:
        field: of the extractor ``sam``.
        camera: a pinhole; its size is that of the masks.
        points: [P, 2] pixels from the image's corner, with labels [P], 1 in the object, 0 outside it.
        box: x0, y0, x1, y1 in pixels.

    Raises:
        FieldError: the field is of another extractor or map.
        PromptError: neither points nor box, or they don't fit.
    """
    field.check_map(gaussians)
    field.check_extractor(sam.identity)
    embedding = rendered_embedding(gaussians, field, camera, camera_from_splat, backend)
    masks = prompted_masks(sam, embedding, (camera.height, camera.width), points, labels, box)
    order = masks.quality.argsort(descending=True)
    return PromptedMasks(masks.logits[order], masks.quality[order])


def rendered_embedding(
    gaussians: GaussianMap,
    field: FeatureField,
    camera: Camera,
    camera_from_splat: NDArray[np.float64],  # [4, 4]
    backend: BackendChoice = "auto",
) -> Tensor:
    """SAM's embedding [64, 64, 256] of a view: one rendered pixel a cell, ``Σ_seen w f / Σ_seen w``, zero padding.

    Raises:
        FieldError: the field's features are not SAM's.
    """
    if field.extractor.name != "sam" or field.dimension != DIMENSION:
        raise FieldError(
            f"the field is of the extractor '{field.extractor.name}' ({field.dimension} channels), SAM's decoder takes "
            "those of 'sam'; back-project with --extractor sam",
            code="field.mismatch",
        )
    cells = rasterizer.view(gaussians, camera_of_cells(camera), camera_from_splat, backend)
    known = field.seen.to(torch.float32).unsqueeze(1)
    rendered = cells.render(torch.cat([field.stored() * known, known], dim=1))
    features = rendered[:, :, :-1] / rendered[:, :, -1:].clamp_min(torch.finfo(torch.float32).tiny)
    return padded(field.codec.decode(features) if field.codec else features)


def camera_of_cells(camera: Camera) -> Camera:
    """The camera whose pixels are the cells of SAM's embedding: 16 px of the image fitted into 1024."""
    height, width = fitted(camera.height, camera.width)
    rows, columns = rendered_size(camera.height, camera.width)
    cell = SIDE // CELLS
    across, down = width / camera.width / cell, height / camera.height / cell
    return Camera(columns, rows, camera.fx * across, camera.fy * down, camera.cx * across, camera.cy * down)
