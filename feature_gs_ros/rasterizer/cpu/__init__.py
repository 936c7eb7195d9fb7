"""The CPU backend: numba kernels over arrays shared with torch."""

from feature_gs_ros.rasterizer.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
