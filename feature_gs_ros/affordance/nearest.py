"""The k nearest patches of every Gaussian by cosine: blocked matrix products, scanned as they come.

Of many patches, only those of the groups nearest to a feature are looked at (an inverted file). How many groups that
takes is found out on a sample of the features, against the exact answer; where it takes too many, all are looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import AffordanceError, StoppedError
from feature_gs_ros.numerics.device import HOST, in_torch
from feature_gs_ros.numerics.runtime import kernel, parallel_for

ROWS = 2048  # Gaussians a block
COLUMNS = 4096  # patches a block: 32 MB of products
SCAN = 256  # rows a thread takes at a time
CARD_ROWS, CARD_COLUMNS = 32768, 16384  # the same on a card: 2 GB of products
GROUP = 32  # products compared at once with the k-th best so far

MIN_GROUPED = 2000  # patches from which on groups are tried
MIN_PRODUCTS = 1 << 27  # features × patches from which on groups are tried: fewer are done before groups are made
GROUPED_ROWS = 16384  # Gaussians per block by groups: a group's rows among them fill a matrix product
SAMPLES = 1024  # features on which the number of groups is found out, and how many times as many patches
RECALL = 0.995  # of the sample's nearest neighbours, and of all k on average
MAX_PROBED = 0.3  # of the groups; where more are needed, products with all patches are as fast
ROUNDS = 8  # of k-means

_MIN_NORM = 1e-12


def nearest_patches(
    features: Callable[[slice], Tensor],
    count: int,
    patches: Tensor,
    k: int,
    progress: Callable[[int, int], object] | None = None,
    exact: bool = False,
    device: torch.device = HOST,
) -> tuple[Tensor, Tensor]:
    """The k most similar patches of each of ``count`` features.

    No ``count`` × M matrix is ever held: besides the answer, `ROWS` × (D + `COLUMNS`) values are.

    Where the features lie on a card, torch looks at all patches there, and the answer lies there, too.

    Args:
        features: rows of a slice, [m, D] float32; asked for block by block, so that a codec decodes block by block.
        count: how many rows there are.
        patches: [M, D], any length but zero.
        k: 1 … M.
        progress: called with the rows done, and all; True stops.
        exact: look at all patches, however many; else about one nearest neighbour in 200 may be another near one.
        device: where the features lie.

    Returns:
        Cosines [count, k] float32, best first, and the patches' rows [count, k] int64.

    Raises:
        StoppedError: ``progress`` stopped it.
        AffordanceError: ``k`` is out of range, dimensions differ, or a feature is not finite.
    """
    if not 1 <= k <= len(patches):
        raise AffordanceError(
            f"k={k} neighbours of {len(patches)} patches: choose 1 to {len(patches)}, or add more sources",
            code="affordance.range",
        )
    unit = torch.nn.functional.normalize(patches.to(torch.float32), dim=1)
    if not bool(torch.isfinite(unit).all()):
        raise AffordanceError(
            "the features of the sources hold NaN or Inf; remove them from the library, add them anew",
            code="affordance.not-finite",
        )
    if in_torch(device):
        return _nearest_there(features, count, unit.to(device), k, progress)
    best = np.full((count, k), np.finfo(np.float32).min)
    index = np.zeros((count, k), np.int32)
    whole = _AllPatches(unit)
    groups = None
    if not exact and len(unit) >= MIN_GROUPED and count * len(unit) >= MIN_PRODUCTS:
        groups = _fitting_groups(unit, whole, lambda rows: _checked(features(rows), unit, rows)[0], count, k)
    step = ROWS if groups is None else GROUPED_ROWS
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        block, norms = _checked(features(rows), unit, rows)
        (groups or whole).search(block, best[rows], index[rows])
        best[rows] /= norms.clamp_min(_MIN_NORM).numpy()[:, None]
        _report(progress, rows.stop, count)
    return torch.from_numpy(best), torch.from_numpy(index).long()


def _report(progress: Callable[[int, int], object] | None, done: int, count: int) -> None:
    if progress is not None and progress(done, count):
        raise StoppedError(f"stopped after the neighbours of {done} of {count} Gaussians")


def _nearest_there(
    features: Callable[[slice], Tensor],
    count: int,
    unit: Tensor,  # [M, D] of length 1
    k: int,
    progress: Callable[[int, int], object] | None,
) -> tuple[Tensor, Tensor]:
    """Exact search on a card: a block's products with some patches at once, and the best k of these and those before.

    Which of two patches that are equally near comes first may differ from the host's.
    """
    best, index = unit.new_empty(count, k), torch.empty(count, k, dtype=torch.int64, device=unit.device)
    for first in range(0, count, CARD_ROWS):
        rows = slice(first, min(first + CARD_ROWS, count))
        block, norms = _checked(features(rows), unit, rows)
        near, whose = (tensor[:, :0] for tensor in (best[rows], index[rows]))
        for start in range(0, len(unit), CARD_COLUMNS):
            products = block @ unit[start : start + CARD_COLUMNS].T
            values, places = products.topk(min(k, products.shape[1]), dim=1)
            near, order = torch.cat([near, values], dim=1).sort(dim=1, descending=True, stable=True)
            whose = torch.cat([whose, places + start], dim=1).gather(1, order)[:, :k]
            near = near[:, :k]
        best[rows] = near / norms.clamp_min(_MIN_NORM)[:, None]
        index[rows] = whose
        _report(progress, rows.stop, count)
    return best, index


def _checked(block: Tensor, unit: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """A block of features and their norms, or an error."""
    if block.shape[1] != unit.shape[1]:
        raise AffordanceError(
            f"the field's features have {block.shape[1]} dimensions, the sources' {unit.shape[1]}: "
            "another extractor; make the library with the field's",
            code="affordance.shape",
        )
    norms = torch.linalg.vector_norm(block, dim=1)
    if not bool(torch.isfinite(norms).all()):
        raise AffordanceError(
            f"features of the Gaussians {rows.start} to {rows.stop} hold NaN or Inf", code="affordance.not-finite"
        )
    return block, norms


class _AllPatches:
    """Exact search: products with all patches."""

    def __init__(self, unit: Tensor) -> None:
        blocks = torch.split(unit, COLUMNS)
        self._blocks = [block.T.contiguous() for block in blocks]  # [D, ≤ COLUMNS] each
        self._numbers = [
            numbers.numpy() for numbers in torch.split(torch.arange(len(unit), dtype=torch.int32), COLUMNS)
        ]

    def search(self, block: Tensor, best: NDArray[np.float32], index: NDArray[np.int32]) -> None:
        """Replace the best products so far [m, k], and whose they are, by better ones of a block of features [m, D]."""
        for rows in torch.split(torch.arange(len(block)), ROWS):
            for other, numbers in zip(self._blocks, self._numbers, strict=True):
                products = (block[rows[0] : rows[-1] + 1] @ other).numpy()
                _scan_rows(products, rows.numpy(), numbers, best, index)


class _Groups:
    """Approximate search: products with the patches of the nearest groups alone."""

    def __init__(self, unit: Tensor, whole: _AllPatches) -> None:
        self._whole = whole
        self._centres = _spherical_k_means(unit, round(len(unit) ** 0.5))
        owner = (unit @ self._centres.T).argmax(dim=1)
        order = torch.argsort(owner, stable=True)
        sizes = torch.bincount(owner, minlength=len(self._centres)).tolist()
        self._members = [part.to(torch.int32).numpy() for part in torch.split(order, sizes)]
        self._blocks = [part.T.contiguous() for part in torch.split(unit[order], sizes)]
        self.probed = max(1, len(self._centres) // 32)

    def __len__(self) -> int:
        return len(self._centres)

    def search(self, block: Tensor, best: NDArray[np.float32], index: NDArray[np.int32]) -> None:
        """As `_AllPatches.search`, over the `probed` groups nearest to each feature."""
        near = (block @ self._centres.T).topk(self.probed, dim=1).indices.reshape(-1)
        order = torch.argsort(near, stable=True)
        sizes = torch.bincount(near, minlength=len(self)).tolist()
        for pairs, members, other in zip(torch.split(order, sizes), self._members, self._blocks, strict=True):
            if len(pairs) and len(members):
                rows = pairs // self.probed
                _scan_rows((block[rows] @ other).numpy(), rows.numpy(), members, best, index)
        short = np.flatnonzero(best[:, -1] == np.finfo(np.float32).min)  # its groups hold fewer than k patches
        if len(short):
            found, whose = best[short], index[short]
            found[:] = np.finfo(np.float32).min
            self._whole.search(block[short], found, whose)
            best[short], index[short] = found, whose


def _fitting_groups(
    unit: Tensor, whole: _AllPatches, features: Callable[[slice], Tensor], count: int, k: int
) -> _Groups | None:
    """Groups that find a sample's neighbours with a recall of `RECALL`; None where that takes too many of them."""
    starts = torch.linspace(0, max(0, count - 32), SAMPLES // 32).long().tolist()
    sample = torch.cat([features(slice(first, min(first + 32, count))) for first in starts])
    wanted = _neighbours(whole, sample, k)
    groups = _Groups(unit, whole)
    while groups.probed <= MAX_PROBED * len(groups):
        found = _neighbours(groups, sample, k)
        first, all_k = (found[:, 0] == wanted[:, 0]).mean(), (found[:, :, None] == wanted[:, None]).any(axis=2).mean()
        if min(first, all_k) >= RECALL:
            return groups
        groups.probed = -(-groups.probed * 5 // 4) + 1
    return None


def _neighbours(search: _AllPatches | _Groups, sample: Tensor, k: int) -> NDArray[np.int32]:
    best, index = np.full((len(sample), k), np.finfo(np.float32).min), np.zeros((len(sample), k), np.int32)
    search.search(sample, best, index)
    return index


def _spherical_k_means(unit: Tensor, groups: int) -> Tensor:
    """Centres [groups, D] of unit length, by k-means on cosines over a sample of unit vectors; the same every time."""
    generator = torch.Generator().manual_seed(0)
    sample = unit[torch.randperm(len(unit), generator=generator)[: 50 * groups]]
    centres = sample[:groups]
    for _ in range(ROUNDS):
        owner = (sample @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, owner, sample)
        empty = torch.linalg.vector_norm(sums, dim=1) < _MIN_NORM  # keeps its centre
        centres = torch.where(empty[:, None], centres, torch.nn.functional.normalize(sums, dim=1))
    return centres


def _scan_rows(
    products: NDArray[np.float32],  # [m, M']
    rows: NDArray[np.int64],  # [m] of `best` and `index`, each once
    numbers: NDArray[np.int32],  # [M'] the patches
    best: NDArray[np.float32],  # [·, k] descending, replaced where products are larger
    index: NDArray[np.int32],  # [·, k]
) -> None:
    parallel_for(len(products), SCAN, lambda start, stop: _scan(start, stop, products, rows, numbers, best, index))


@kernel
def _scan(
    start: int,
    stop: int,
    products: NDArray[np.float32],
    rows: NDArray[np.int64],
    numbers: NDArray[np.int32],
    best: NDArray[np.float32],
    index: NDArray[np.int32],
) -> None:
    columns, k = products.shape[1], best.shape[1]
    for i in range(start, stop):
        row = rows[i]
        worst = best[row, k - 1]
        for first in range(0, columns, GROUP):
            last = min(first + GROUP, columns)
            largest = products[i, first]
            for j in range(first + 1, last):  # one compare each, several at a time: few groups hold a better one
                largest = max(largest, products[i, j])
            if largest <= worst:
                continue
            for j in range(first, last):
                if products[i, j] > worst:
                    slot = k - 1
                    while slot > 0 and best[row, slot - 1] < products[i, j]:
                        best[row, slot], index[row, slot] = best[row, slot - 1], index[row, slot - 1]
                        slot -= 1
                    best[row, slot], index[row, slot] = products[i, j], numbers[j]
                    worst = best[row, k - 1]
