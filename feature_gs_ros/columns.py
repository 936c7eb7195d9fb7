"""Sixteen rows of an array as vectors of its columns, and back: how kernels take Gaussians sixteen at a time.

A Gaussian's numbers lie side by side in memory (x, y, z, x, y, z, …); a vector holds one of them of sixteen Gaussians.
Rows that are kept are written by plain stores, each where the next one goes unless it counts: no branch to predict,
and no instruction that only some processors have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.np.arrayobj import make_array

from feature_gs_ros.vectors import FLOAT, INT, SIZE, VECTOR, intrinsic

LONG = ir.IntType(64)


def _is(array, dimensions, number=types.float32):
    return isinstance(array, types.Array) and (array.ndim, array.dtype, array.layout) == (dimensions, number, "C")


def _shuffle(builder, a, b, lanes: Iterable[int]):
    places = list(lanes)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT, len(places)), places))


def _loader(width: int, name: str):
    """Make the function that loads sixteen rows of ``width`` numbers."""

    @intrinsic
    def function(_typing, array, first):
        if not _is(array, 1 if width == 1 else 2):
            return None

        def lower(context, builder, sig, args):
            source = make_array(sig.args[0])(context, builder, args[0])
            first = context.cast(builder, args[1], sig.args[1], types.int64)
            every = builder.load(_sixteen_rows(builder, source, first, width), align=4)
            columns = [_shuffle(builder, every, every, range(k, SIZE * width, width)) for k in range(width)]
            return columns[0] if width == 1 else cgutils.pack_array(builder, columns)

        return (VECTOR if width == 1 else types.UniTuple(VECTOR, width))(array, first), lower

    function.__name__ = name
    return function


def _sixteen_rows(builder, source, first, width):
    """Where rows ``first`` … lie: in the array or, with zeros after its end, in a copy."""
    kind = ir.VectorType(FLOAT, SIZE * width)
    begin = builder.gep(source.data, [builder.mul(first, ir.Constant(LONG, width))])
    rows = cgutils.alloca_once_value(builder, begin)
    left = builder.sub(builder.extract_value(source.shape, 0), first)
    copy = builder.bitcast(cgutils.alloca_once(builder, ir.ArrayType(FLOAT, SIZE * width)), begin.type)
    with builder.if_then(builder.icmp_signed("<", left, ir.Constant(LONG, SIZE)), likely=False):
        cgutils.memset(builder, copy, ir.Constant(LONG, 4 * SIZE * width), 0)
        cgutils.raw_memcpy(builder, copy, begin, left, 4 * width)
        builder.store(copy, rows)
    return builder.bitcast(builder.load(rows), kind.as_pointer())


# ``array[first : first + 16]`` of [n], [n, 3] and [n, 4], column by column; rows after the array's end are 0.
load_numbers = _loader(1, "load_numbers")
load_triples = _loader(3, "load_triples")
load_quadruples = _loader(4, "load_quadruples")


def _offsets(builder, kept):
    """How many of the sixteen are kept before each: where it goes unless it isn't kept itself."""
    offset, offsets = ir.Constant(LONG, 0), []
    for lane in range(SIZE):
        offsets.append(offset)
        bit = builder.and_(builder.lshr(kept, ir.Constant(LONG, lane)), ir.Constant(LONG, 1))
        offset = builder.add(offset, bit)
    return offsets


def _packer(name: str, number: Any, width: int, pieces: Any):
    """Make the function that writes what is kept of sixteen rows, given as one argument after the first two."""

    @intrinsic
    def function(_typing, array, first, values, kept):
        if kept is not types.int64 or not _is(array, 1 if width == 1 else 2, number):
            return None

        def lower(context, builder, sig, args):
            data = make_array(sig.args[0])(context, builder, args[0]).data
            first = context.cast(builder, args[1], sig.args[1], types.int64)
            begin = builder.gep(data, [builder.mul(first, ir.Constant(LONG, width))])
            rows = pieces(context, builder, args[2], sig.args[2])
            for offset, row in zip(_offsets(builder, args[3]), rows, strict=True):
                pointer = builder.gep(begin, [builder.mul(offset, ir.Constant(LONG, width))])
                builder.store(row, builder.bitcast(pointer, row.type.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.none(array, first, values, kept), lower

    function.__name__ = name
    return function


def _numbers(_context, builder, vector, _type):
    return [builder.extract_element(vector, ir.Constant(INT, lane)) for lane in range(SIZE)]


def _places(context, builder, start, numba_type):
    start = context.cast(builder, start, numba_type, types.int32)
    return [builder.add(start, ir.Constant(INT, lane)) for lane in range(SIZE)]


def _octets(_context, builder, columns, _type):
    """Rows of eight columns: three perfect shuffles bring column, the first part of an element's place, to its end."""
    vectors = cgutils.unpack_tuple(builder, columns)
    halves = [range(0, SIZE // 2), range(SIZE // 2, SIZE)]
    for _ in range(3):
        pairs = [(a, b, half) for a, b in zip(vectors[:4], vectors[4:], strict=True) for half in halves]
        vectors = [_shuffle(builder, a, b, [k for i in half for k in (i, SIZE + i)]) for a, b, half in pairs]
    return [_shuffle(builder, both, both, half) for both in vectors for half in halves]


# Those of sixteen rows whose bits are set in ``kept``, side by side from ``array[first]`` on; all sixteen rows from
# there on may be written. The rows are a vector, the whole numbers start, start + 1, … or eight vectors of columns.
pack_numbers = _packer("pack_numbers", types.float32, 1, _numbers)
pack_places = _packer("pack_places", types.int32, 1, _places)
pack_octets = _packer("pack_octets", types.float32, 8, _octets)


@intrinsic
def count_bits(_typing, number):
    """How many bits of an int64 are set."""
    if number is not types.int64:
        return None

    def lower(_context, builder, _signature, args):
        return builder.ctpop(args[0])

    return types.int64(number), lower
