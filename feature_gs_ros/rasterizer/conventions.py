"""What all backends share: the rasteriser's conventions, those of gsplat 1.5.3 in classic mode unless said."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.core.gaussians import BLUR

NEAR_PLANE = np.float32(0.01)  # splat units
EPS2D = np.float32(BLUR)  # px², added to the diagonal of the 2D covariance, unless a map was trained with another
ALPHA_MIN = np.float32(1.0 / 255.0)  # smaller alphas are skipped
ALPHA_MAX = np.float32(0.999)  # larger ones are clipped; 0.99 in Inria's code and gsplat 1.6
TRANSMITTANCE_MIN = np.float32(1e-4)  # a ray ends before the Gaussian that would bring it this low
TANGENT_MARGIN = 0.15  # of the image's width: the Jacobian's tangents are clamped to bounds widened by it
CELL_WEIGHT_MIN = 0.05  # of a full cell's pixels that must count for the cell to count in a cell operator
