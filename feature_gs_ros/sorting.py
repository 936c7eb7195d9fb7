"""Radix sorts: the orders that a view needs, in time linear in the number of Gaussians."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.kernels import kernel


def argsort_unsigned(keys: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Stable argsort [n] of unsigned integers [n]."""
    largest = int(keys.max()) if len(keys) else 0
    order: NDArray[np.int32] = _radix_argsort(keys, -(-largest.bit_length() // 11))
    return order


def argsort_positive(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Stable argsort [n] of positive floats [n]: their bits sort like unsigned integers."""
    return argsort_unsigned(values.view(np.uint32))


def morton_order(points: NDArray[np.float32]) -> NDArray[np.int32]:
    """Order [N] that walks points [N, 3] along a Z-curve, so that neighbours in space come close together."""
    low = points.min(axis=0)
    size = max(float((points.max(axis=0) - low).max()), 1e-12)
    codes = np.empty(len(points), np.uint32)
    _morton_codes(points, low.astype(np.float32), np.float32(1023 / size), codes)
    return argsort_unsigned(codes)


@kernel
def _morton_codes(points, low, scale, codes):
    for i in range(points.shape[0]):
        code = np.uint32(0)
        for axis in range(3):
            bits = np.uint32((points[i, axis] - low[axis]) * scale)
            bits = (bits | (bits << np.uint32(16))) & np.uint32(0x030000FF)
            bits = (bits | (bits << np.uint32(8))) & np.uint32(0x0300F00F)
            bits = (bits | (bits << np.uint32(4))) & np.uint32(0x030C30C3)
            bits = (bits | (bits << np.uint32(2))) & np.uint32(0x09249249)
            code |= bits << np.uint32(axis)
        codes[i] = code


@kernel
def _radix_argsort(keys, passes):
    count = keys.shape[0]
    order = np.arange(count).astype(np.int32)
    other = np.empty(count, np.int32)
    for digit in range(passes):
        shift = np.uint32(11 * digit)
        starts = np.zeros(2049, np.int64)
        for k in keys:
            starts[((k >> shift) & np.uint32(2047)) + 1] += 1
        for bucket in range(2048):
            starts[bucket + 1] += starts[bucket]
        for i in range(count):
            bucket = (keys[order[i]] >> shift) & np.uint32(2047)
            other[starts[bucket]] = order[i]
            starts[bucket] += 1
        order, other = other, order
    return order
