"""√ of a vector, and the parts that a float32 is made of."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

from feature_gs_ros.numerics.simd.llvm.types import FLOATS, INTS, VECTOR, intrinsic
from feature_gs_ros.numerics.simd.size import SIZE

MANTISSA_BITS, MANTISSA, BIAS = 23, (1 << 23) - 1, 127  # of a float32


@intrinsic
def square_root(_typing, vector):
    """√ of numbers ≥ 0."""

    def lower(_context, builder, _signature, args):
        kind = ir.FunctionType(FLOATS, [FLOATS])
        root = cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{SIZE}f32")
        return builder.call(root, args)

    return VECTOR(vector), lower


@intrinsic
def float_parts(_typing, vector):
    """Mantissas in [1, 2) and exponents of positive normal numbers: mantissa · 2^exponent."""

    def lower(_context, builder, _signature, args):
        def whole(number: int) -> ir.Constant:
            return ir.Constant(INTS, [number] * SIZE)

        bits = builder.bitcast(args[0], INTS)
        mantissa = builder.or_(builder.and_(bits, whole(MANTISSA)), whole(BIAS << MANTISSA_BITS))
        exponent = builder.sub(builder.lshr(bits, whole(MANTISSA_BITS)), whole(BIAS))
        return cgutils.pack_array(builder, [builder.bitcast(mantissa, FLOATS), builder.sitofp(exponent, FLOATS)])

    return types.UniTuple(VECTOR, 2)(vector), lower
