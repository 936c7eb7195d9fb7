"""Vectors of sixteen float32 for numba: the type, its mathematics, and transposes of rows and columns."""
