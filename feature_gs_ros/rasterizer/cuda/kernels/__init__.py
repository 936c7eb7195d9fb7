"""Warp kernels: no checks; every argument is checked by the module that launches them.

One source for every device. What only a GPU has (lanes that walk in lockstep) is in `native.py`; on Warp's CPU device
a warp has one lane, and the same code gives the same sums. Kernels are forward only: gradients are written by hand.
"""
