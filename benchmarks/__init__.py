"""Speed and memory, each as a ratio against a named alternative in the same run: ``python -m benchmarks``."""

import feature_gs_ros  # noqa: F401 - before torch, as its users have it: it sets how OpenMP's threads wait
