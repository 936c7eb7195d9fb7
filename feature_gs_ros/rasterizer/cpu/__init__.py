"""The CPU backend: numba kernels over arrays shared with torch."""
