"""Wᵀ M L of one view: how much of each Gaussian's weight lies on pixels of each label."""

from __future__ import annotations

import scipy.sparse
import torch
from torch import Tensor

from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.rasterizer.cuda.kernels import labels as kernels
from feature_gs_ros.rasterizer.cuda.pairs import Pairs, device_axis
from feature_gs_ros.rasterizer.cuda.projection import Projection
from feature_gs_ros.rasterizer.cuda.runtime import BLOCK, COUNTABLE, launch

MAX_SUMS = 1 << 26  # of pairs of tile and Gaussian, and the tile's labels, held at once


def label_weights(
    projection: Projection, pairs: Pairs, labels: Tensor, valid: Tensor | None, shape: tuple[int, int]
) -> scipy.sparse.csr_matrix:
    """Weights [N, C] by the map's rows, float32; ``labels`` [H, W] int32 on the device, negative where none is."""
    device, layout = labels.device, pairs.layout
    x, y = device_axis(layout.x, device), device_axis(layout.y, device)
    listed = torch.empty(layout.tiles, BLOCK, dtype=torch.int32, device=device)
    counts = torch.empty(layout.tiles, dtype=torch.int32, device=device)
    planes = torch.empty_like(labels)
    launch(kernels.list_labels, layout.tiles, device, x.edges, y.edges, labels, listed, counts, planes)
    sizes = pairs.entries.diff().long() * counts
    begins = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    bands = min(layout.y.tiles, -(-int(begins[-1]) // MAX_SUMS) or 1)
    mask = valid if valid is not None else torch.empty(0, 0, device=device)
    result = scipy.sparse.csr_matrix(shape, dtype="float32")
    for band in range(bands):
        first, end = (layout.y.tiles * part // bands * layout.x.tiles for part in (band, band + 1))
        start, stop = begins[[first, end]].tolist()
        if stop - start > COUNTABLE:
            raise BackendError(
                f"{stop - start} weights of Gaussians and labels in a row of tiles are too many; use fewer labels, a "
                "smaller image or --backend cpu",
                code="backend.range",
            )
        sums = torch.zeros(stop - start, device=device)
        arrays = (pairs.tiles, first, planes, mask, counts, begins, sums)
        launch(kernels.label_sums, (end - first) * BLOCK, device, *arrays)
        found = sums.nonzero()[:, 0]
        tile = torch.searchsorted(begins, found + start, right=True) - 1
        inside, count = found + start - begins[tile], counts[tile].long()
        rows = projection.rows[pairs.gaussians[pairs.entries[tile] + inside // count].long()]
        columns = listed[tile, inside % count]
        weights, *places = (tensor.cpu().numpy() for tensor in (sums[found], rows, columns))
        result = result + scipy.sparse.csr_matrix((weights, tuple(places)), shape=shape)
    return result
