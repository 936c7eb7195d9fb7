"""Compiled kernels and their threads, vectors of sixteen floats, sorting, products of matrices."""
