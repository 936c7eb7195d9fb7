"""The types and operations of `feature_gs_ros.numerics.simd`, lane by lane: what runs where LLVM's vectors don't.

A vector is a struct of a tuple of sixteen float32, a mask one of sixteen booleans; each operation is written out over
their lanes. Of numba only what its documentation of extensions describes is used, of LLVM only scalar instructions, and
memory is touched by numba's own indexing. The kernels compile more slowly, and run a few times slower.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.extending import lower_builtin, make_attribute_wrapper, models, register_model, type_callable

from feature_gs_ros.numerics.simd.size import SIZE

intrinsic: Any = extending.intrinsic  # its types know nothing of how kernels call it
FAST = ("fast",)  # reassociated and fused, as everywhere in the kernels
FLOAT, BIT, INT, LONG = ir.FloatType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)
FLOATS, BITS = types.UniTuple(types.float32, SIZE), types.UniTuple(types.boolean, SIZE)
MANTISSA_BITS, MANTISSA, BIAS = 23, (1 << 23) - 1, 127  # of a float32
K = tuple(np.uintp(k) for k in range(SIZE))  # unsigned indices don't count from an array's end


class VectorType(types.Type):
    """float32 × 16."""

    def __init__(self) -> None:
        super().__init__("ScalarVector")


class MaskType(types.Type):
    """bool × 16."""

    def __init__(self) -> None:
        super().__init__("ScalarMask")


VECTOR, MASK = VectorType(), MaskType()


@register_model(VectorType)
class VectorModel(models.StructModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, [("lanes", FLOATS)])


@register_model(MaskType)
class MaskModel(models.StructModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, [("lanes", BITS)])


make_attribute_wrapper(VectorType, "lanes", "lanes")
make_attribute_wrapper(MaskType, "lanes", "lanes")


def _scalar(function: Callable[..., Any]) -> Any:
    """A piece of a kernel, compiled once and called by each kernel that needs it."""
    return numba.njit(function, fastmath=True, nogil=True)


def _split(context, builder, value, numba_type):
    """The lanes of a vector or mask; a number sixteen times."""
    if isinstance(numba_type, VectorType | MaskType):
        return [builder.extract_value(value, [0, k]) for k in range(SIZE)]
    return [context.cast(builder, value, numba_type, types.float32)] * SIZE


def _joined(context, builder, numba_type, lanes):
    """The vector or mask of these lanes."""
    struct = cgutils.create_struct_proxy(numba_type)(context, builder)
    struct.lanes = cgutils.pack_array(builder, lanes)
    return struct._getvalue()


def _by_lanes(result: Any, lane: Callable[..., Any]) -> Callable[..., Any]:
    """The lowering of an operation that makes each lane of its result of the same lane of its arguments."""

    def lower(context, builder, sig, args):
        columns = [_split(context, builder, *pair) for pair in zip(args, sig.args, strict=True)]
        return _joined(context, builder, result, [lane(builder, *lanes) for lanes in zip(*columns, strict=True)])

    return lower


def _define(operators: tuple[Any, ...], result: Any, lane: Callable[..., Any]) -> None:
    """Give the operators a meaning for two vectors, or a vector and a number."""
    lower = _by_lanes(result, lane)

    def typing(_context):
        def typed(a, b):
            fits = VECTOR in (a, b) and all(isinstance(kind, VectorType | types.Number) for kind in (a, b))
            return result if fits else None

        return typed

    for symbol in operators:
        type_callable(symbol)(typing)
        for kinds in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
            lower_builtin(symbol, *kinds)(lower)


def _less(builder, a, b):
    return builder.fcmp_ordered("<", a, b, flags=FAST)


_define((operator.add, operator.iadd), VECTOR, lambda builder, a, b: builder.fadd(a, b, flags=FAST))
_define((operator.sub, operator.isub), VECTOR, lambda builder, a, b: builder.fsub(a, b, flags=FAST))
_define((operator.mul, operator.imul), VECTOR, lambda builder, a, b: builder.fmul(a, b, flags=FAST))
_define((operator.truediv,), VECTOR, lambda builder, a, b: builder.fdiv(a, b, flags=FAST))
_define((operator.gt,), MASK, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_define((operator.ge,), MASK, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))


def _and_typing(_context):
    def typed(a, b):
        return MASK if (a, b) == (MASK, MASK) else None

    return typed


for symbol in (operator.and_, operator.iand):
    type_callable(symbol)(_and_typing)
    lower_builtin(symbol, MaskType, MaskType)(_by_lanes(MASK, lambda builder, a, b: builder.and_(a, b)))


def _lanewise(name: str, result: Any, lane: Callable[..., Any]) -> Any:
    """The function of two arguments that makes each lane of its result by ``lane``."""
    lower = _by_lanes(result, lane)

    @intrinsic
    def function(_typing, a, b):
        return result(a, b), lower

    function.__name__ = name
    return function


minimum = _lanewise("minimum", VECTOR, lambda builder, a, b: builder.select(_less(builder, a, b), a, b))
maximum = _lanewise("maximum", VECTOR, lambda builder, a, b: builder.select(_less(builder, b, a), a, b))
where = _lanewise("where", VECTOR, lambda builder, mask, lane: builder.select(mask, lane, ir.Constant(FLOAT, 0.0)))


@intrinsic
def broadcast(_typing, number):
    """The number in all sixteen lanes."""

    def lower(context, builder, sig, args):
        return _joined(context, builder, VECTOR, _split(context, builder, args[0], sig.args[0]))

    return VECTOR(number), lower


@intrinsic
def vector_of(_typing, lanes):
    """The vector of a tuple of sixteen float32."""
    if lanes != FLOATS:
        return None

    def lower(context, builder, _signature, args):
        struct = cgutils.create_struct_proxy(VECTOR)(context, builder)
        struct.lanes = args[0]
        return struct._getvalue()

    return VECTOR(lanes), lower


@intrinsic
def put(_typing, vector, index, number):
    """The vector with ``number`` at ``index``."""

    def lower(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.int64)
        number = context.cast(builder, args[2], sig.args[2], types.float32)
        lanes = [
            builder.select(builder.icmp_signed("==", index, LONG(k)), number, lane)
            for k, lane in enumerate(_split(context, builder, args[0], sig.args[0]))
        ]
        return _joined(context, builder, VECTOR, lanes)

    return VECTOR(vector, index, number), lower


@intrinsic
def total(_typing, vector):
    """The sum of the sixteen."""

    def lower(context, builder, sig, args):
        sums = _split(context, builder, args[0], sig.args[0])
        while len(sums) > 1:
            pairs = zip(sums[: len(sums) // 2], sums[len(sums) // 2 :], strict=True)
            sums = [builder.fadd(a, b, flags=FAST) for a, b in pairs]
        return sums[0]

    return types.float32(vector), lower


@intrinsic
def bits(_typing, mask):
    """The mask as an integer: bit k for lane k."""

    def lower(context, builder, sig, args):
        number = LONG(0)
        for k, lane in enumerate(_split(context, builder, args[0], sig.args[0])):
            number = builder.or_(number, builder.shl(builder.zext(builder.trunc(lane, BIT), LONG), LONG(k)))
        return number

    return types.int64(mask), lower


@intrinsic
def square_root(_typing, vector):
    """√ of numbers ≥ 0."""

    def lane(builder, number):
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [FLOAT]), [number])

    return VECTOR(vector), _by_lanes(VECTOR, lane)


@intrinsic
def float_parts(_typing, vector):
    """Mantissas in [1, 2) and exponents of positive normal numbers: mantissa · 2^exponent."""

    def mantissa(builder, number):
        kept = builder.and_(builder.bitcast(number, INT), INT(MANTISSA))
        return builder.bitcast(builder.or_(kept, INT(BIAS << MANTISSA_BITS)), FLOAT)

    def exponent(builder, number):
        shifted = builder.lshr(builder.bitcast(number, INT), INT(MANTISSA_BITS))
        return builder.sitofp(builder.sub(shifted, INT(BIAS)), FLOAT)

    def lower(context, builder, sig, args):
        parts = [_by_lanes(VECTOR, lane)(context, builder, sig, args) for lane in (mantissa, exponent)]
        return context.make_tuple(builder, sig.return_type, parts)

    return types.UniTuple(VECTOR, 2)(vector), lower


@_scalar
def _gather(array, first, step):
    """``array[first], array[first + step], …``, sixteen of a flat array."""
    i, s = np.uintp(first), np.uintp(step)
    return vector_of((
        array[i], array[i + s], array[i + K[2] * s], array[i + K[3] * s],
        array[i + K[4] * s], array[i + K[5] * s], array[i + K[6] * s], array[i + K[7] * s],
        array[i + K[8] * s], array[i + K[9] * s], array[i + K[10] * s], array[i + K[11] * s],
        array[i + K[12] * s], array[i + K[13] * s], array[i + K[14] * s], array[i + K[15] * s],
    ))  # fmt: skip


@_scalar
def _scatter(array, first, step, vector):
    """The same sixteen of a flat array, written."""
    i, s, lanes = np.uintp(first), np.uintp(step), vector.lanes
    array[i], array[i + s], array[i + K[2] * s], array[i + K[3] * s] = lanes[0], lanes[1], lanes[2], lanes[3]
    i += K[4] * s
    array[i], array[i + s], array[i + K[2] * s], array[i + K[3] * s] = lanes[4], lanes[5], lanes[6], lanes[7]
    i += K[4] * s
    array[i], array[i + s], array[i + K[2] * s], array[i + K[3] * s] = lanes[8], lanes[9], lanes[10], lanes[11]
    i += K[4] * s
    array[i], array[i + s], array[i + K[2] * s], array[i + K[3] * s] = lanes[12], lanes[13], lanes[14], lanes[15]


@_scalar
def load(array, first):
    """``array[first : first + 16]``."""
    return _gather(array, first, 1)


@_scalar
def store(array, first, vector):
    """``array[first : first + 16] = vector``."""
    _scatter(array, first, 1, vector)


@_scalar
def store_first(array, first, vector, count):
    """``array[first : first + 16] = vector``, but only its first ``count`` lanes."""
    lanes = vector.lanes
    for k in range(min(count, SIZE)):
        array[np.uintp(first + k)] = lanes[k]


@_scalar
def prefetch(_array, _index):
    """Nothing: whether memory is asked for early changes no result."""


@_scalar
def first_bit(number):
    """The index of an int64's lowest bit that is set; 64 if none is."""
    index = 0
    while index < 64 and number >> index & 1 == 0:
        index += 1
    return index


@_scalar
def end_bit(number):
    """One past the index of an int64's highest bit that is set; 0 if none is."""
    index = 64
    while index > 0 and number >> (index - 1) & 1 == 0:
        index -= 1
    return index


@_scalar
def count_bits(number):
    """How many bits of an int64 are set."""
    count = 0
    for index in range(64):
        count += number >> index & 1
    return count


@_scalar
def _columns(array, first, width):
    """Rows [first, first + 16) of a flat array of rows of ``width`` values, or a copy of them that ends in zeros."""
    left = array.shape[0] - first * width
    if left >= SIZE * width:
        return array, first * width
    rows = np.zeros(SIZE * width, np.float32)
    rows[:left] = array[first * width :]
    return rows, 0


@_scalar
def load_scalars(array, first):
    """``array[first : first + 16]`` of an array [n], and zeros after its end."""
    rows, begin = _columns(array, first, 1)
    return _gather(rows, begin, 1)


@_scalar
def load_triples(array, first):
    """Rows [first, first + 16) of an array [n, 3], column by column; after the array's end they are 0."""
    rows, begin = _columns(array.reshape(-1), first, 3)
    return _gather(rows, begin, 3), _gather(rows, begin + 1, 3), _gather(rows, begin + 2, 3)


@_scalar
def load_quadruples(array, first):
    """Rows [first, first + 16) of an array [n, 4], column by column; after the array's end they are 0."""
    rows, begin = _columns(array.reshape(-1), first, 4)
    return (
        _gather(rows, begin, 4),
        _gather(rows, begin + 1, 4),
        _gather(rows, begin + 2, 4),
        _gather(rows, begin + 3, 4),
    )


@_scalar
def pack_scalars(array, first, vector, kept):
    """The lanes whose bits are set in ``kept``, side by side from array[first] on."""
    lanes, index = vector.lanes, first
    for k in range(SIZE):
        if kept >> k & 1:
            array[index] = lanes[k]
            index += 1


@_scalar
def pack_indices(array, first, start, kept):
    """The same of the integers start, start + 1, …"""
    index = first
    for k in range(SIZE):
        if kept >> k & 1:
            array[index] = start + k
            index += 1


@_scalar
def pack_octets(array, first, columns, kept):
    """The same of sixteen rows of eight values, given as eight vectors, to rows of an array [n, 8]."""
    for column in range(8):
        lanes, index = columns[column].lanes, first
        for k in range(SIZE):
            if kept >> k & 1:
                array[index, column] = lanes[k]
                index += 1


@_scalar
def load_rows(array, first, second):
    """``array[first : first + 8]`` and ``array[second : second + 8]`` in one vector."""
    i, j = np.uintp(first), np.uintp(second)
    return vector_of((
        array[i], array[i + K[1]], array[i + K[2]], array[i + K[3]],
        array[i + K[4]], array[i + K[5]], array[i + K[6]], array[i + K[7]],
        array[j], array[j + K[1]], array[j + K[2]], array[j + K[3]],
        array[j + K[4]], array[j + K[5]], array[j + K[6]], array[j + K[7]],
    ))  # fmt: skip


@_scalar
def store_rows(array, first, second, vector):
    """``array[first : first + 8], array[second : second + 8]`` = the two halves of ``vector``."""
    lanes, half = vector.lanes, SIZE // 2
    for k in range(half):
        array[np.uintp(first + k)], array[np.uintp(second + k)] = lanes[k], lanes[half + k]


@_scalar
def store_totals(array, index, a, b, c, d):
    """``array[index : index + 4]`` = the sums of four vectors."""
    array[index], array[index + 1], array[index + 2], array[index + 3] = total(a), total(b), total(c), total(d)
