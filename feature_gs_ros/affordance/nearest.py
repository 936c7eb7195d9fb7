"""The k nearest patches of every Gaussian by cosine: a blocked matrix product, scanned as it comes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import AffordanceError, StoppedError
from feature_gs_ros.numerics.runtime import kernel, parallel_for

ROWS = 2048  # Gaussians a block
COLUMNS = 4096  # patches a block: 32 MB of products
SCAN = 256  # rows a thread takes at a time
GROUP = 32  # products compared at once with the k-th best so far

_MIN_NORM = 1e-12


def nearest_patches(
    features: Callable[[slice], Tensor],
    count: int,
    patches: Tensor,
    k: int,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k most similar patches of each of ``count`` features.

    No ``count`` × M matrix is ever held: besides the answer, `ROWS` × (D + `COLUMNS`) numbers are.

    Args:
        features: rows of a slice, [m, D] float32; asked for block by block, so that a codec decodes block by block.
        count: how many rows there are.
        patches: [M, D], any length but zero.
        k: 1 … M.
        progress: called with the rows done, and all; True stops.

    Returns:
        Cosines [count, k] float32, best first, and the patches' rows [count, k] int64.

    Raises:
        StoppedError: ``progress`` stopped it.
        AffordanceError: ``k`` is out of range, dimensions differ, or a feature is not finite.
    """
    if not 1 <= k <= len(patches):
        raise AffordanceError(
            f"k={k} neighbours of {len(patches)} patches: choose 1 to {len(patches)}, or add more sources"
        )
    unit = torch.nn.functional.normalize(patches.to(torch.float32), dim=1)
    if not bool(torch.isfinite(unit).all()):
        raise AffordanceError(
            "the features of the sources hold NaN or Inf; remove them from the library, add them anew"
        )
    blocks = [block.T.contiguous() for block in torch.split(unit, COLUMNS)]  # [D, ≤ COLUMNS] each
    best = np.full((count, k), np.finfo(np.float32).min)
    index = np.zeros((count, k), np.int32)
    space = torch.empty(ROWS * COLUMNS)
    for first in range(0, count, ROWS):
        rows = slice(first, min(first + ROWS, count))
        block = features(rows)
        if block.shape[1] != patches.shape[1]:
            raise AffordanceError(
                f"the field's features have {block.shape[1]} dimensions, the sources' {patches.shape[1]}: "
                "another extractor; make the library with the field's"
            )
        norms = torch.linalg.vector_norm(block, dim=1)
        if not bool(torch.isfinite(norms).all()):
            raise AffordanceError(f"features of the Gaussians {rows.start} to {rows.stop} hold NaN or Inf")
        for column, other in enumerate(blocks):
            products = space[: len(block) * other.shape[1]].view(len(block), other.shape[1])
            torch.mm(block, other, out=products)
            _scan_rows(products.numpy(), column * COLUMNS, best[rows], index[rows])
        best[rows] /= norms.clamp_min(_MIN_NORM).numpy()[:, None]
        if progress is not None and progress(rows.stop, count):
            raise StoppedError(f"stopped after the neighbours of {rows.stop} of {count} Gaussians")
    return torch.from_numpy(best), torch.from_numpy(index).long()


def _scan_rows(
    products: NDArray[np.float32],  # [m, M']
    offset: int,
    best: NDArray[np.float32],  # [m, k] descending, replaced where products are larger
    index: NDArray[np.int32],  # [m, k]
) -> None:
    parallel_for(len(products), SCAN, lambda start, stop: _scan(start, stop, products, offset, best, index))


@kernel
def _scan(
    start: int,
    stop: int,
    products: NDArray[np.float32],
    offset: int,
    best: NDArray[np.float32],
    index: NDArray[np.int32],
) -> None:
    columns, k = products.shape[1], best.shape[1]
    for row in range(start, stop):
        worst = best[row, k - 1]
        for first in range(0, columns, GROUP):
            group = products[row, first : min(first + GROUP, columns)]
            largest = group[0]
            for i in range(1, len(group)):  # one compare a number, several at a time: few groups hold a better one
                largest = max(largest, group[i])
            if largest <= worst:
                continue
            for i in range(len(group)):
                if group[i] > worst:
                    place = k - 1
                    while place > 0 and best[row, place - 1] < group[i]:
                        best[row, place], index[row, place] = best[row, place - 1], index[row, place - 1]
                        place -= 1
                    best[row, place], index[row, place] = group[i], offset + first + i
                    worst = best[row, k - 1]
