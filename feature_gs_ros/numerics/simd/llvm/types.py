"""The types and operations of `feature_gs_ros.numerics.simd` as vectors of LLVM's: <16 x float>, <16 x i1>.

LLVM cuts a vector to the width of the processor. What is used of numba here is partly internal (`make_array`,
`infer_global`), and what of LLVM depends on its version (pointers, names of intrinsics): hence the probe.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model
from numba.np.arrayobj import make_array

from feature_gs_ros.numerics.simd.size import SIZE

intrinsic: Any = extending.intrinsic  # its types know nothing of how kernels call it
FAST = ("fast",)  # reassociated and fused, as everywhere in the kernels
FLOAT, INT = ir.FloatType(), ir.IntType(32)
FLOATS, BITS = ir.VectorType(FLOAT, SIZE), ir.VectorType(ir.IntType(1), SIZE)
INTS = ir.VectorType(INT, SIZE)
LANE_INDEX = ir.Constant(INTS, list(range(SIZE)))


class VectorType(types.Type):
    """float32 × 16."""

    def __init__(self) -> None:
        super().__init__("Vector")


class MaskType(types.Type):
    """bool × 16."""

    def __init__(self) -> None:
        super().__init__("Mask")


VECTOR, MASK = VectorType(), MaskType()


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, FLOATS)


@register_model(MaskType)
class MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, BITS)


def _broadcast(context, builder, value, numba_type):
    """A number in all sixteen lanes; a vector as it is."""
    if isinstance(numba_type, VectorType):
        return value
    number = context.cast(builder, value, numba_type, types.float32)
    nothing = ir.Constant(FLOATS, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(INT, SIZE), [0] * SIZE))


def _broadcast_int(builder, number):
    nothing, zeros = ir.Constant(INTS, ir.Undefined), ir.Constant(INTS, [0] * SIZE)
    return builder.shuffle_vector(builder.insert_element(nothing, number, ir.Constant(INT, 0)), nothing, zeros)


def _define(operators, make, result):
    """Give the operators a meaning for two vectors, or a vector and a number."""

    def lower(context, builder, sig, args):
        return make(builder, *(_broadcast(context, builder, *pair) for pair in zip(args, sig.args, strict=True)))

    for symbol in operators:

        @infer_global(symbol)
        class Typing(AbstractTemplate):
            def generic(self, args, _):
                fits = len(args) == 2 and all(isinstance(arg, VectorType | types.Number) for arg in args)
                return signature(result, *args) if fits and VECTOR in args else None

        for kinds in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
            lower_builtin(symbol, *kinds)(lower)


_define((operator.add, operator.iadd), lambda builder, a, b: builder.fadd(a, b, flags=FAST), VECTOR)
_define((operator.sub, operator.isub), lambda builder, a, b: builder.fsub(a, b, flags=FAST), VECTOR)
_define((operator.mul, operator.imul), lambda builder, a, b: builder.fmul(a, b, flags=FAST), VECTOR)
_define((operator.truediv,), lambda builder, a, b: builder.fdiv(a, b, flags=FAST), VECTOR)
_define((operator.gt,), lambda builder, a, b: builder.fcmp_ordered(">", a, b), MASK)
_define((operator.ge,), lambda builder, a, b: builder.fcmp_ordered(">=", a, b), MASK)


@infer_global(operator.and_)
@infer_global(operator.iand)
class _AndTyping(AbstractTemplate):
    def generic(self, args, _):
        return signature(MASK, *args) if tuple(args) == (MASK, MASK) else None


@lower_builtin(operator.and_, MaskType, MaskType)
@lower_builtin(operator.iand, MaskType, MaskType)
def _and(_context, builder, _signature, args):
    return builder.and_(*args)


def pointer_to(context, builder, array, array_type, index, index_type):
    """Where ``array[index]`` lies, as the address of a vector."""
    index = context.cast(builder, index, index_type, types.intp)
    data = make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), FLOATS.as_pointer())


def _pointer(context, builder, sig, args):
    """Where ``args[0][args[1]]`` lies."""
    return pointer_to(context, builder, args[0], sig.args[0], args[1], sig.args[1])


def floats(array):
    """Whether a type is that of arrays which these functions take."""
    return isinstance(array, types.Array) and (array.ndim, array.dtype, array.layout) == (1, types.float32, "C")


@intrinsic
def load(_typing, array, first):
    """``array[first : first + 16]``."""
    if not floats(array):
        return None

    def lower(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig, args), align=4)

    return signature(VECTOR, array, first), lower


@intrinsic
def store(_typing, array, first, vector):
    """``array[first : first + 16] = vector``."""
    if not floats(array):
        return None

    def lower(context, builder, sig, args):
        builder.store(args[2], _pointer(context, builder, sig, args), align=4)
        return context.get_dummy_value()

    return signature(types.none, array, first, vector), lower


@intrinsic
def store_first(_typing, array, first, vector, count):
    """``array[first : first + 16] = vector``, but only its first ``count`` lanes."""
    if not floats(array):
        return None

    def lower(context, builder, sig, args):
        pointer = _pointer(context, builder, sig, args)
        count = builder.trunc(context.cast(builder, args[3], sig.args[3], types.int64), INT)
        stored = builder.icmp_signed("<", LANE_INDEX, _broadcast_int(builder, count))
        kind = ir.FunctionType(ir.VoidType(), [FLOATS, pointer.type, INT, BITS])
        name = f"llvm.masked.store.v{SIZE}f32.p0v{SIZE}f32"
        masked = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(masked, [args[2], pointer, ir.Constant(INT, 4), stored])
        return context.get_dummy_value()

    return signature(types.none, array, first, vector, count), lower


@intrinsic
def prefetch(_typing, array, index):
    """Ask for ``array.flat[index]``, of any contiguous array, to be in the cache when it is needed soon."""
    if not (isinstance(array, types.Array) and array.layout == "C"):
        return None

    def lower(context, builder, sig, args):
        data = make_array(sig.args[0])(context, builder, args[0]).data
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        pointer = builder.bitcast(builder.gep(data, [index]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT, INT, INT])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        read, keep, data_cache = ir.Constant(INT, 0), ir.Constant(INT, 3), ir.Constant(INT, 1)
        builder.call(fetch, [pointer, read, keep, data_cache])
        return context.get_dummy_value()

    return signature(types.none, array, index), lower


@intrinsic
def broadcast(_typing, number):
    """The number in all sixteen lanes."""

    def lower(context, builder, sig, args):
        return _broadcast(context, builder, args[0], sig.args[0])

    return signature(VECTOR, number), lower


@intrinsic
def where(_typing, mask, vector):
    """The vector where the mask holds, 0 elsewhere."""

    def lower(_context, builder, _signature, args):
        return builder.select(args[0], args[1], ir.Constant(FLOATS, [0.0] * SIZE))

    return signature(VECTOR, mask, vector), lower


@intrinsic
def put(_typing, vector, index, number):
    """The vector with ``number`` at ``index``: in registers, where a store and a load would wait for each other."""

    def lower(context, builder, sig, args):
        index = builder.trunc(context.cast(builder, args[1], sig.args[1], types.intp), INT)
        here = builder.icmp_signed("==", LANE_INDEX, _broadcast_int(builder, index))
        return builder.select(here, _broadcast(context, builder, args[2], sig.args[2]), args[0])

    return signature(VECTOR, vector, index, number), lower


def _extreme(name, comparison):
    @intrinsic
    def function(_typing, a, b):
        def lower(context, builder, sig, args):
            a, b = (_broadcast(context, builder, *pair) for pair in zip(args, sig.args, strict=True))
            return builder.select(builder.fcmp_ordered(comparison, a, b, flags=FAST), a, b)

        return signature(VECTOR, a, b), lower

    function.__name__ = name
    return function


minimum = _extreme("minimum", "<")
maximum = _extreme("maximum", ">")


@intrinsic
def total(_typing, vector):
    """The sum of the sixteen."""

    def lower(_context, builder, _signature, args):
        kind = ir.FunctionType(FLOAT, [FLOAT, FLOATS])
        reduce = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{SIZE}f32")
        return builder.call(reduce, [ir.Constant(FLOAT, 0.0), args[0]], fastmath=FAST)

    return signature(types.float32, vector), lower


@intrinsic
def bits(_typing, mask):
    """The mask as an integer: bit k for lane k."""

    def lower(_context, builder, _signature, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(SIZE)), ir.IntType(64))

    return signature(types.int64, mask), lower


@intrinsic
def first_bit(_typing, number):
    """The index of an int64's lowest bit that is set; 64 if none is."""
    if number is not types.int64:
        return None

    def lower(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return signature(types.int64, number), lower


@intrinsic
def end_bit(_typing, number):
    """One past the index of an int64's highest bit that is set; 0 if none is."""
    if number is not types.int64:
        return None

    def lower(_context, builder, _signature, args):
        return builder.sub(ir.Constant(ir.IntType(64), 64), builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0)))

    return signature(types.int64, number), lower
