"""Functions of vectors of sixteen float32: √, log, and products that cancel."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from feature_gs_ros.numerics.runtime import inline
from feature_gs_ros.numerics.simd.types import FLOATS, INTS, SIZE, VECTOR, intrinsic

ONE, TWO, LOG_2 = np.float32(1), np.float32(2), np.float32(math.log(2))
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


@inline
def log_from_one(x):
    """log(x) of 1 ≤ x to 3e-7 relative: log m = 2 atanh((m − 1)/(m + 1)), by a polynomial in the argument's square."""
    mantissa, exponent = float_parts(x)
    s = (mantissa - ONE) / (mantissa + ONE)
    t = s * s
    p = t * (t * np.float32(0.11619509) + np.float32(0.10851662)) + np.float32(0.14296291)
    p = t * (t * p + np.float32(0.19999851)) + np.float32(0.33333334)
    return exponent * LOG_2 + (s + s) * (t * p + ONE)
