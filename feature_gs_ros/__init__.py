"""Ask a 3D Gaussian-splat map in words, by example or by a click.

The library has no ROS import; only ``feature_gs_ros.ros`` has one.
"""

from pkgutil import extend_path

# In a colcon workspace the generated messages and this tree are two folders of one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
