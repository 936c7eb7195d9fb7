"""Vectors made of two rows: eight float32 from one index on and eight from another; and four sums at once.

Most Gaussians are narrower than eight pixels: two rows of them fill a vector that one row leaves half empty.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from feature_gs_ros.numerics.simd.llvm.types import FAST, FLOAT, INT, VECTOR, VectorType, floats, intrinsic, pointer_to
from feature_gs_ros.numerics.simd.size import SIZE

HALF = SIZE // 2
HALF_FLOATS = ir.VectorType(FLOAT, HALF)
FOUR_FLOATS = ir.VectorType(FLOAT, 4)


def _lanes(indices):
    return ir.Constant(ir.VectorType(INT, len(indices)), list(indices))


def _half_pointer(context, builder, array, array_type, index, index_type):
    pointer = pointer_to(context, builder, array, array_type, index, index_type)
    return builder.bitcast(pointer, HALF_FLOATS.as_pointer())


@intrinsic
def load_rows(_typing, array, first, second):
    """``array[first : first + 8]`` and ``array[second : second + 8]`` in one vector."""
    if not floats(array):
        return None

    def lower(context, builder, sig, args):
        halves = [
            builder.load(_half_pointer(context, builder, args[0], sig.args[0], args[k], sig.args[k]), align=4)
            for k in (1, 2)
        ]
        return builder.shuffle_vector(*halves, _lanes(range(SIZE)))

    return VECTOR(array, first, second), lower


@intrinsic
def store_rows(_typing, array, first, second, vector):
    """``array[first : first + 8], array[second : second + 8]`` = the two halves of ``vector``."""
    if not floats(array):
        return None

    def lower(context, builder, sig, args):
        for k, begin in ((1, 0), (2, HALF)):
            half = builder.shuffle_vector(args[3], args[3], _lanes(range(begin, begin + HALF)))
            pointer = _half_pointer(context, builder, args[0], sig.args[0], args[k], sig.args[k])
            builder.store(half, pointer, align=4)
        return context.get_dummy_value()

    return types.none(array, first, second, vector), lower


@intrinsic
def store_totals(_typing, array, index, a, b, c, d):
    """``array[index : index + 4]`` = the sums of four vectors, folded together: half the work of four sums."""
    if not (floats(array) and all(isinstance(vector, VectorType) for vector in (a, b, c, d))):
        return None

    def lower(context, builder, sig, args):
        def add(x, y):
            return builder.fadd(x, y, flags=FAST)

        def fold(x, y, low, high):
            return add(builder.shuffle_vector(x, y, low), builder.shuffle_vector(x, y, high))

        # Halves of two vectors side by side, then quarters of four; what is left are four sums of four.
        low, high = _lanes([*range(8), *range(16, 24)]), _lanes([*range(8, 16), *range(24, 32)])
        ab, cd = fold(args[2], args[3], low, high), fold(args[4], args[5], low, high)
        low = _lanes([*range(4), *range(8, 12), *range(16, 20), *range(24, 28)])
        high = _lanes([*range(4, 8), *range(12, 16), *range(20, 24), *range(28, 32)])
        quarters = fold(ab, cd, low, high)
        for swap in (2, 1):
            quarters = add(
                quarters, builder.shuffle_vector(quarters, quarters, _lanes([k ^ swap for k in range(SIZE)]))
            )
        sums = builder.shuffle_vector(quarters, quarters, _lanes([0, 4, 8, 12]))
        pointer = pointer_to(context, builder, args[0], sig.args[0], args[1], sig.args[1])
        builder.store(sums, builder.bitcast(pointer, FOUR_FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.none(array, index, a, b, c, d), lower
