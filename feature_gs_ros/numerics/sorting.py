"""Radix sorts: the orders that a view needs, in time linear in the number of Gaussians."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.numerics.runtime import inline, kernel

MAX_DIGIT_BITS = 14  # bits: two passes over a view's depths


def argsort_unsigned(keys: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Stable argsort [n] of unsigned integers [n]."""
    if len(keys) == 0:
        return np.zeros(0, np.int32)
    low_key = keys.min()
    width = int(keys.max() - low_key).bit_length()
    passes = max(2, -(-width // MAX_DIGIT_BITS))
    order: NDArray[np.int32] = _radix_argsort(keys, low_key, passes, max(1, -(-width // passes)))
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
    """Ten bits of each coordinate of ``(points − low) · scale``, interleaved: x lowest."""
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
def _radix_argsort(keys, low_key, passes, width):
    """By digits of ``width`` bits, the last first. A key and its index travel as one number, so no pass looks back."""
    count = keys.shape[0]
    pairs, others = np.empty(count, np.uint64), np.empty(count if passes > 2 else 0, np.uint64)
    order = np.empty(count, np.int32)
    mask = np.uint64((1 << width) - 1)
    starts = _bucket_starts(keys, low_key, 0, width)
    for i in range(count):
        key = np.uint64(np.uint32(keys[i] - low_key))
        pairs[starts[key & mask]] = key << np.uint64(32) | np.uint64(i)
        starts[key & mask] += 1
    for digit in range(1, passes):
        shift = np.uint64(32 + width * digit)
        starts = _bucket_starts(keys, low_key, width * digit, width)
        if digit < passes - 1:
            for pair in pairs:
                bucket = pair >> shift & mask
                others[starts[bucket]] = pair
                starts[bucket] += 1
            pairs, others = others, pairs
        else:
            for pair in pairs:
                bucket = pair >> shift & mask
                order[starts[bucket]] = np.int32(np.uint32(pair))
                starts[bucket] += 1
    return order


@inline
def _bucket_starts(keys, low_key, shift, width):
    """Where each value of the digit begins among the sorted keys, [2^width]."""
    mask = np.uint32((1 << width) - 1)
    starts = np.zeros(1 << width, np.int32)
    for key in keys:
        starts[np.uint32(key - low_key) >> np.uint32(shift) & mask] += 1
    before = np.int32(0)
    for bucket in range(1 << width):
        count = starts[bucket]
        starts[bucket] = before
        before += count
    return starts
