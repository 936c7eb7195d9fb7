"""numba kernels: no checks, no types; every argument is checked by the module that calls them."""
