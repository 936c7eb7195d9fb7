"""Sixteen rows of an array as vectors of its columns, and back: how kernels take Gaussians sixteen at a time.

A Gaussian's values lie side by side in memory (x, y, z, x, y, z, …); a vector holds one of them of sixteen Gaussians.
Rows that are kept are written by plain stores, each where the next one goes unless it counts: no branch to predict,
and no instruction that only some processors have.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.np.arrayobj import make_array

from feature_gs_ros.numerics.simd.llvm.types import FLOAT, INT, LANE_INDEX, VECTOR, intrinsic
from feature_gs_ros.numerics.simd.size import SIZE

LONG = ir.IntType(64)
EVERY = (1 << SIZE) - 1  # all sixteen bits


def _is(array, dimensions, dtype=types.float32):
    return isinstance(array, types.Array) and (array.ndim, array.dtype, array.layout) == (dimensions, dtype, "C")


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT, len(lanes)), list(lanes)))


def _begin(context, builder, sig, args, width):
    """Where row ``args[1]`` of the array ``args[0]``, ``width`` values per row, lies; the row's index; the array."""
    array = make_array(sig.args[0])(context, builder, args[0])
    first = context.cast(builder, args[1], sig.args[1], types.int64)
    return builder.gep(array.data, [builder.mul(first, LONG(width))]), first, array


def _loader(width: int, name: str) -> Any:
    """Make the function that loads sixteen rows of ``width`` values."""

    @intrinsic
    def function(_typing, array, first):
        if not _is(array, 1 if width == 1 else 2):
            return None

        def lower(context, builder, sig, args):
            begin, first, source = _begin(context, builder, sig, args, width)
            left = builder.sub(builder.extract_value(source.shape, 0), first)
            rows = builder.load(_sixteen_rows(builder, begin, left, width), align=4)
            columns = [_shuffle(builder, rows, rows, range(k, SIZE * width, width)) for k in range(width)]
            return columns[0] if width == 1 else cgutils.pack_array(builder, columns)

        return (VECTOR if width == 1 else types.UniTuple(VECTOR, width))(array, first), lower

    function.__name__ = name
    return function


def _sixteen_rows(builder, begin, left, width):
    """Where sixteen rows lie: from ``begin`` on or, if fewer are left there, in a copy that goes on with zeros."""
    rows = cgutils.alloca_once_value(builder, begin)
    copy = builder.bitcast(cgutils.alloca_once(builder, ir.ArrayType(FLOAT, SIZE * width)), begin.type)
    with builder.if_then(builder.icmp_signed("<", left, LONG(SIZE)), likely=False):
        cgutils.memset(builder, copy, LONG(4 * SIZE * width), 0)
        cgutils.raw_memcpy(builder, copy, begin, left, 4 * width)
        builder.store(copy, rows)
    return builder.bitcast(builder.load(rows), ir.VectorType(FLOAT, SIZE * width).as_pointer())


# Rows first … first + 15 of arrays [n], [n, 3] and [n, 4], column by column; after the array's end they are 0.
load_scalars = _loader(1, "load_scalars")
load_triples = _loader(3, "load_triples")
load_quadruples = _loader(4, "load_quadruples")


def _packer(name: str, dtype: Any, width: int, lay_out: Any) -> Any:
    """Make the function that writes what is kept of sixteen rows of ``width`` values.

    ``lay_out`` makes of the function's third argument the vectors that hold the rows, one after the other.
    """

    @intrinsic
    def function(_typing, array, first, rows, kept):
        if kept is not types.int64 or not _is(array, 1 if width == 1 else 2, dtype):
            return None

        def lower(context, builder, sig, args):
            begin, _, _ = _begin(context, builder, sig, args, width)
            vectors = lay_out(context, builder, args[2], sig.args[2])
            with builder.if_else(builder.icmp_unsigned("==", args[3], LONG(EVERY))) as (every, some):
                with every:
                    for k, vector in enumerate(vectors):
                        _store(builder, vector, begin, LONG(SIZE * k))
                with some:
                    _store_kept(builder, vectors, begin, args[3], width)
            return context.get_dummy_value()

        return types.none(array, first, rows, kept), lower

    function.__name__ = name
    return function


def _store(builder, value, begin, index):
    pointer = builder.gep(begin, [index])
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def _store_kept(builder, vectors, begin, kept, width):
    """Each row goes where the next one is to stand, and is written over unless it is kept."""
    index = LONG(0)
    for lane in range(SIZE):
        vector, first = vectors[lane * width // SIZE], lane * width % SIZE
        if width == 1:
            row = builder.extract_element(vector, INT(first))
        else:
            row = _shuffle(builder, vector, vector, range(first, first + width))
        _store(builder, row, begin, index)
        bit = builder.and_(builder.lshr(kept, LONG(lane)), LONG(1))
        index = builder.add(index, builder.mul(bit, LONG(width)))


def _one_vector(_context, _builder, vector, _type):
    return [vector]


def _counted_from(context, builder, start, numba_type):
    start = context.cast(builder, start, numba_type, types.int32)
    first = builder.insert_element(ir.Constant(LANE_INDEX.type, ir.Undefined), start, INT(0))
    return [builder.add(_shuffle(builder, first, first, [0] * SIZE), LANE_INDEX)]


def _rows_of_columns(_context, builder, columns, _type):
    """Eight columns to rows: three perfect shuffles bring the column, first part of a value's index, to its end."""
    vectors = cgutils.unpack_tuple(builder, columns)
    halves = [range(SIZE // 2), range(SIZE // 2, SIZE)]
    for _ in range(3):
        pairs = [(a, b, half) for a, b in zip(vectors[:4], vectors[4:], strict=True) for half in halves]
        vectors = [_shuffle(builder, a, b, [k for i in half for k in (i, SIZE + i)]) for a, b, half in pairs]
    return vectors


# Those of sixteen rows whose bits are set in ``kept``, side by side from array[first] on; there must be room for all
# sixteen. Rows are the lanes of a vector, the integers start, start + 1, …, or made of eight vectors, columns.
pack_scalars = _packer("pack_scalars", types.float32, 1, _one_vector)
pack_indices = _packer("pack_indices", types.int32, 1, _counted_from)
pack_octets = _packer("pack_octets", types.float32, 8, _rows_of_columns)


@intrinsic
def count_bits(_typing, number):
    """How many bits of an int64 are set."""
    if number is not types.int64:
        return None

    def lower(_context, builder, _signature, args):
        return builder.ctpop(args[0])

    return types.int64(number), lower
