"""Ask a 3D Gaussian-splat map in words, by example or by a click.

The library has no ROS import; only ``feature_gs_ros.ros`` has one.
"""

import os
from pkgutil import extend_path

# torch's idle OpenMP threads would spin for milliseconds, on the very cores that our kernels' threads, the camera's
# driver and the planner need. Read when torch is loaded; whoever has set it keeps it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A network's large tensors in large pages: in small ones, which the system hands out one by one and clears each time,
# they took about a fifth of an extractor's time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# In a colcon workspace the generated messages and this tree are two folders of one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
