"""Points in a hash table of cubes: neighbours, clusters and spacings in time linear in their number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feature_gs_ros.numerics.runtime import inline, kernel, parallel_for

CELLS = 256  # per range of a thread
SAMPLE = 32  # points whose neighbours are looked for among all others, for a first guess of the spacing
FAR = 1e300  # a squared distance beyond all others; kernels' arithmetic knows no infinity

# The cubes around one that may hold points within its diagonal, nearest first: most cores are known after a few.
_STEPS = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
AROUND = _STEPS[np.argsort((_STEPS**2).sum(axis=1), kind="stable")][1:]  # [124, 3]

Points = NDArray[np.float64]  # [n, 3]


class PointGrid(NamedTuple):
    """Which points lie in which cube; K cubes hold any."""

    table: NDArray[np.int32]  # [2^b] cube or −1, by hash of the corner with linear probing
    corners: NDArray[np.int64]  # [K, 3] in units of the side
    starts: NDArray[np.int64]  # [K + 1] where each cube's points begin in `order`
    order: NDArray[np.int32]  # [n] points, cube by cube
    cell: NDArray[np.int32]  # [n] cube of each point; numbered by their first points

    @staticmethod
    def of(points: Points, side: float) -> PointGrid:
        """Sort points into cubes of this side; one corner is the smallest x, y and z."""
        count = len(points)
        table = np.full(1 << max(4, (2 * count - 1).bit_length()), -1, np.int32)
        corners, cell = np.empty((count, 3), np.int64), np.empty(count, np.int32)
        cells = _fill(points, points.min(axis=0), side, table, corners, cell)
        starts, order = np.zeros(cells + 1, np.int64), np.empty(count, np.int32)
        np.cumsum(np.bincount(cell, minlength=cells), out=starts[1:])
        _sort(cell, starts[:-1].copy(), order)
        return PointGrid(table, corners[:cells].copy(), starts, order, cell)


class NearCells(NamedTuple):
    """For each cube those around it that hold points, as far as points within its diagonal may lie; nearest first."""

    cells: NDArray[np.int32]  # [K, 124], of which the first `counts` are written
    counts: NDArray[np.int32]  # [K]


def dbscan(points: Points, weights: NDArray[np.float64], radius: float, min_weight: float) -> NDArray[np.int64]:
    """Labels [n] of DBSCAN (Ester et al., 1996) with weighted points; −1 belongs to no cluster.

    A point is a core where the weights within ``radius``, its own included, sum to ``min_weight``. Clusters are the
    connected components of the cores, numbered by their first core; another point within the radius of a core belongs
    to the first such cluster. Cubes have a diagonal of ``radius``, so that all cores of one belong together.
    """
    grid = PointGrid.of(points, radius / 3**0.5 * (1 - 1e-9))
    cells = len(grid.corners)
    near = NearCells(np.empty((cells, len(AROUND)), np.int32), np.zeros(cells, np.int32))
    core, limit = np.zeros(len(points), np.bool_), radius**2
    parallel_for(cells, CELLS, lambda start, stop: _find_near(start, stop, grid, AROUND, near))
    parallel_for(
        cells, CELLS, lambda start, stop: _cores(start, stop, points, weights, grid, near, limit, min_weight, core)
    )
    owner = _join(points, grid, near, core, limit)
    labels = np.full(len(points), -1, np.int64)
    _number(owner, grid.cell, core, labels)
    parallel_for(cells, CELLS, lambda start, stop: _borders(start, stop, points, grid, near, core, limit, labels))
    return labels


def median_neighbour_distance(points: Points, sample: NDArray[np.int64], k: int) -> float:
    """Median distance of the sampled points to their k-th nearest other point.

    Points whose k-th neighbour is farther than the median, a little more, count as just that: their median is the same.
    """
    side = 1.25 * float(np.median(_kth_of_all(points, sample[:: -(-len(sample) // SAMPLE)], k)))
    extent = float((points.max(axis=0) - points.min(axis=0)).max())
    while 0 < side < extent:
        grid, distances = PointGrid.of(points, side), np.empty(len(sample))
        by_cell = sample[np.argsort(grid.cell[sample])]  # so that a cube's neighbours are still in the cache
        _kth_in_parallel(points, by_cell, grid, k, side, distances)
        median = float(np.median(distances))
        if median < FAR**0.5 / 2:
            return median
        side *= 1.5
    return float(np.median(_kth_of_all(points, sample, k)))


def weighted_quantiles(
    values: NDArray[np.float64], weights: NDArray[np.float64], fractions: ArrayLike
) -> NDArray[np.float64]:
    """The smallest values [Q] up to which at least these fractions [Q] of the weights [M] of values [M] lie."""
    wanted = np.asarray(fractions, np.float64)
    found = np.empty(len(wanted))
    _quantiles(*(np.ascontiguousarray(array, np.float64) for array in (values, weights)), wanted, found)
    return found


def hull_candidates(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points [n, 2] may be vertices of their convex hull: those without others in all four quadrants around."""
    candidates = np.ones(len(points), np.bool_)
    _leave_hull(points, candidates)
    return candidates


def _kth_of_all(points: Points, sample: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Distances [m] of sampled points to their k-th neighbours, by looking at all."""
    distances = np.empty(len(sample))
    parallel_for(len(sample), 1, lambda start, stop: _kth_by_all(start, stop, points, sample, k, distances))
    return distances


def _kth_in_parallel(
    points: Points, sample: NDArray[np.int64], grid: PointGrid, k: int, side: float, distances: NDArray[np.float64]
) -> None:
    parallel_for(len(sample), CELLS, lambda start, stop: _kth(start, stop, points, sample, grid, k, side, distances))


@inline
def _slot(table, corners, x, y, z):
    """The slot of the table in which the cube with this corner stands, or the free one in which it would."""
    mask = table.shape[0] - 1
    slot = ((x * 73856093) ^ (y * 19349663) ^ (z * 83492791)) & mask
    while table[slot] >= 0 and not (
        corners[table[slot], 0] == x and corners[table[slot], 1] == y and corners[table[slot], 2] == z
    ):
        slot = (slot + 1) & mask
    return slot


@kernel
def _fill(points, low, side, table, corners, cell):
    """Fill ``table``, ``corners`` and ``cell`` of a `PointGrid`; returns how many cubes hold points."""
    cells = 0
    for i in range(points.shape[0]):
        x = np.int64(np.floor((points[i, 0] - low[0]) / side))
        y = np.int64(np.floor((points[i, 1] - low[1]) / side))
        z = np.int64(np.floor((points[i, 2] - low[2]) / side))
        slot = _slot(table, corners, x, y, z)
        if table[slot] < 0:
            corners[cells, 0], corners[cells, 1], corners[cells, 2] = x, y, z
            table[slot] = cells
            cells += 1
        cell[i] = table[slot]
    return cells


@kernel
def _sort(cell, following, order):
    """Points by their cubes, stable; ``following`` [K] is where each cube's next one goes, moved on."""
    for i in range(cell.shape[0]):
        order[following[cell[i]]] = i
        following[cell[i]] += 1


@kernel
def _find_near(start, stop, grid, around, near):
    """Fill `NearCells` of the cubes ``start <= c < stop`` in the order of ``around`` [124, 3]."""
    table, corners, cells, counts = grid.table, grid.corners, near.cells, near.counts
    for c in range(start, stop):
        for k in range(around.shape[0]):
            x, y, z = corners[c, 0] + around[k, 0], corners[c, 1] + around[k, 1], corners[c, 2] + around[k, 2]
            slot = _slot(table, corners, x, y, z)
            if table[slot] >= 0:
                cells[c, counts[c]] = table[slot]
                counts[c] += 1


@inline
def _apart(points, i, j):
    """Squared distance."""
    x, y, z = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1], points[i, 2] - points[j, 2]
    return x * x + y * y + z * z


@kernel
def _cores(start, stop, points, weights, grid, near, radius2, min_weight, core):
    """Whether the weights within the radius of each point of the cubes sum to ``min_weight``, into ``core`` [n]."""
    starts, order, cells, counts = grid.starts, grid.order, near.cells, near.counts
    for c in range(start, stop):
        own = 0.0
        for a in range(starts[c], starts[c + 1]):
            own += weights[order[a]]
        for a in range(starts[c], starts[c + 1]):
            i, total, k = order[a], own, 0
            while total < min_weight and k < counts[c]:
                for b in range(starts[cells[c, k]], starts[cells[c, k] + 1]):
                    if _apart(points, i, order[b]) <= radius2:
                        total += weights[order[b]]
                k += 1
            core[i] = total >= min_weight


@inline
def _root(owner, c):
    """The cube that stands for the component of cube ``c``; the way there is halved."""
    while owner[c] != c:
        owner[c] = owner[owner[c]]
        c = owner[c]
    return c


@kernel
def _join(points, grid, near, core, radius2):
    """The component of each cube's cores: [K], a cube of it; −1 where a cube has none."""
    starts, order, around, counts = grid.starts, grid.order, near.cells, near.counts
    cells = starts.shape[0] - 1
    owner = np.full(cells, -1, np.int32)
    for c in range(cells):
        for a in range(starts[c], starts[c + 1]):
            if core[order[a]]:
                owner[c] = c
    for c in range(cells):
        if owner[c] < 0:
            continue
        for k in range(counts[c]):
            other = around[c, k]
            if other < c or owner[other] < 0 or _root(owner, c) == _root(owner, other):
                continue
            if _touch(points, starts, order, core, c, other, radius2):
                owner[_root(owner, other)] = _root(owner, c)
    for c in range(cells):
        if owner[c] >= 0:
            owner[c] = _root(owner, c)
    return owner


@inline
def _touch(points, starts, order, core, c, other, radius2):
    """Whether any two cores of two cubes lie within the radius."""
    for a in range(starts[c], starts[c + 1]):
        if core[order[a]]:
            for b in range(starts[other], starts[other + 1]):
                if core[order[b]] and _apart(points, order[a], order[b]) <= radius2:
                    return True
    return False


@kernel
def _number(owner, cell, core, labels):
    """Labels [n] of the cores, components numbered by their first one."""
    number = np.full(owner.shape[0], -1, np.int64)
    clusters = 0
    for i in range(cell.shape[0]):
        if core[i]:
            root = owner[cell[i]]
            if number[root] < 0:
                number[root] = clusters
                clusters += 1
            labels[i] = number[root]


@kernel
def _borders(start, stop, points, grid, near, core, radius2, labels):
    """Labels of the other points of the cubes: that of the first cluster with a core within the radius."""
    starts, order, cells, counts = grid.starts, grid.order, near.cells, near.counts
    for c in range(start, stop):
        for a in range(starts[c], starts[c + 1]):
            i = order[a]
            if core[i]:
                continue
            first = -1
            for b in range(starts[c], starts[c + 1]):
                if core[order[b]] and (first < 0 or labels[order[b]] < first):
                    first = labels[order[b]]
            for k in range(counts[c]):
                for b in range(starts[cells[c, k]], starts[cells[c, k] + 1]):
                    j = order[b]
                    if core[j] and (first < 0 or labels[j] < first) and _apart(points, i, j) <= radius2:
                        first = labels[j]
            labels[i] = first


@inline
def _keep_nearest(nearest, apart):
    """Insert a squared distance, less than the last, among the nearest so far, ascending."""
    at = nearest.shape[0] - 1
    while at > 0 and nearest[at - 1] > apart:
        nearest[at] = nearest[at - 1]
        at -= 1
    nearest[at] = apart


@kernel
def _kth_by_all(start, stop, points, sample, k, distances):
    """Distances of sampled points to their k-th nearest other point among all."""
    nearest = np.empty(k)
    for s in range(start, stop):
        nearest[:] = FAR
        for j in range(points.shape[0]):
            apart = _apart(points, sample[s], j)
            if apart < nearest[k - 1] and j != sample[s]:
                _keep_nearest(nearest, apart)
        distances[s] = np.sqrt(nearest[k - 1])


@kernel
def _kth(start, stop, points, sample, grid, k, side, distances):
    """The same among the points of the 27 cubes around: exact up to their side, `FAR` beyond."""
    table, corners, starts, order, cell = grid
    nearest = np.empty(k)
    for s in range(start, stop):
        i = sample[s]
        nearest[:] = FAR
        own_x, own_y, own_z = corners[cell[i], 0], corners[cell[i], 1], corners[cell[i], 2]
        for x in range(own_x - 1, own_x + 2):
            for y in range(own_y - 1, own_y + 2):
                for z in range(own_z - 1, own_z + 2):
                    c = table[_slot(table, corners, x, y, z)]
                    if c >= 0:
                        for b in range(starts[c], starts[c + 1]):
                            apart = _apart(points, i, order[b])
                            if apart < nearest[k - 1] and order[b] != i:
                                _keep_nearest(nearest, apart)
        distances[s] = np.sqrt(nearest[k - 1] if nearest[k - 1] <= side * side else FAR)


@kernel
def _quantiles(values, weights, fractions, found):
    """A histogram tells the bin that holds each quantile; only its values are sorted."""
    bins = 1024
    low, high, total = values[0], values[0], 0.0
    for i in range(values.shape[0]):
        low, high, total = min(low, values[i]), max(high, values[i]), total + weights[i]
    scale = (bins - 1) / (high - low) if high > low else 0.0
    sums, counts = np.zeros(bins), np.zeros(bins, np.int64)
    for i in range(values.shape[0]):
        at = np.int64((values[i] - low) * scale)
        sums[at] += weights[i]
        counts[at] += 1
    for q in range(fractions.shape[0]):
        wanted, at, before = fractions[q] * total, 0, 0.0
        while at < bins - 1 and before + sums[at] < wanted:
            before += sums[at]
            at += 1
        inside, count = np.empty((counts[at], 2)), 0
        for i in range(values.shape[0]):
            if np.int64((values[i] - low) * scale) == at:
                inside[count, 0], inside[count, 1] = values[i], weights[i]
                count += 1
        if count == 0:  # rounding: the last bins hold nothing
            found[q] = high
            continue
        order = np.argsort(inside[:, 0])
        found[q] = inside[order[count - 1], 0]
        for k in order:
            before += inside[k, 1]
            if before >= wanted:
                found[q] = inside[k, 0]
                break


@kernel
def _leave_hull(points, candidates):
    """Quadrants are looked at in cells: a point in cell (x, y) has any in (< x, < y) to its lower left, and so on."""
    cells = 64
    low = np.array([points[0, 0], points[0, 1]])
    high = low.copy()
    for i in range(points.shape[0]):
        for axis in range(2):
            low[axis], high[axis] = min(low[axis], points[i, axis]), max(high[axis], points[i, axis])
    scale = (cells - 1) / np.maximum(high - low, 1e-300)
    # Each column's lowest and highest cell that holds a point, then the extremes of all columns to the left and right.
    lowest, highest = np.full(cells, cells), np.full(cells, -1)
    for i in range(points.shape[0]):
        x, y = np.int64((points[i, 0] - low[0]) * scale[0]), np.int64((points[i, 1] - low[1]) * scale[1])
        lowest[x], highest[x] = min(lowest[x], y), max(highest[x], y)
    left_low, left_high, right_low, right_high = lowest.copy(), highest.copy(), lowest.copy(), highest.copy()
    for x in range(1, cells):
        left_low[x], left_high[x] = min(left_low[x - 1], lowest[x]), max(left_high[x - 1], highest[x])
        at = cells - 1 - x
        right_low[at], right_high[at] = min(right_low[at + 1], lowest[at]), max(right_high[at + 1], highest[at])
    for i in range(points.shape[0]):
        x, y = np.int64((points[i, 0] - low[0]) * scale[0]), np.int64((points[i, 1] - low[1]) * scale[1])
        candidates[i] = (
            x == 0
            or x == cells - 1
            or left_low[x - 1] >= y
            or left_high[x - 1] <= y
            or right_low[x + 1] >= y
            or right_high[x + 1] <= y
        )
