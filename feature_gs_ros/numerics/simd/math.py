"""Functions of vectors, of either kind."""

from __future__ import annotations

import math

import numpy as np

from feature_gs_ros.numerics.runtime import inline
from feature_gs_ros.numerics.simd import float_parts

ONE, LOG_2 = np.float32(1), np.float32(math.log(2))


@inline
def log_from_one(x):
    """log(x) of 1 ≤ x to 3e-7 relative: log m = 2 atanh((m − 1)/(m + 1)), by a polynomial in the argument's square."""
    mantissa, exponent = float_parts(x)
    s = (mantissa - ONE) / (mantissa + ONE)
    t = s * s
    p = t * (t * np.float32(0.11619509) + np.float32(0.10851662)) + np.float32(0.14296291)
    p = t * (t * p + np.float32(0.19999851)) + np.float32(0.33333334)
    return exponent * LOG_2 + (s + s) * (t * p + ONE)
