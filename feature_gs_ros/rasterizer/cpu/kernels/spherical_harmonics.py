"""The real spherical-harmonics basis of Inria's 3DGS and gsplat, degrees 0 to 3."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.core import sh
from feature_gs_ros.numerics.runtime import kernel

C0, C1 = np.float32(sh.C0), np.float32(sh.C1)
C2, C3 = tuple(map(np.float32, sh.C2)), tuple(map(np.float32, sh.C3))


@kernel
def colors(start, stop, coefficients, means, eye, rows, colors):
    """Colours max(Σ_c Y_c(direction) coefficient_c + ½, 0) [V, 3] of ``rows[start:stop]``, float32.

    ``coefficients`` [N, 1, 4, 9 or 16, 3]; the direction goes from ``eye`` [3] to ``means`` [N, 3].
    """
    count = coefficients.shape[1]
    basis = np.empty(16, np.float32)
    basis[0] = C0
    for k in range(start, stop):
        i = rows[k]
        x, y, z = means[i, 0] - eye[0], means[i, 1] - eye[1], means[i, 2] - eye[2]
        inverse = np.float32(1) / max(np.sqrt(x * x + y * y + z * z), np.float32(1e-12))
        x, y, z = x * inverse, y * inverse, z * inverse
        if count > 1:
            basis[1], basis[2], basis[3] = -C1 * y, C1 * z, -C1 * x
        if count > 4:
            xx, yy, zz = x * x, y * y, z * z
            basis[4], basis[5] = C2[0] * x * y, -C2[0] * y * z
            basis[6] = C2[1] * (np.float32(2) * zz - xx - yy)
            basis[7], basis[8] = -C2[0] * x * z, C2[2] * (xx - yy)
            if count > 9:
                basis[9] = -C3[0] * y * (np.float32(3) * xx - yy)
                basis[10] = C3[1] * x * y * z
                basis[11] = -C3[2] * y * (np.float32(4) * zz - xx - yy)
                basis[12] = C3[3] * z * (np.float32(2) * zz - np.float32(3) * xx - np.float32(3) * yy)
                basis[13] = -C3[2] * x * (np.float32(4) * zz - xx - yy)
                basis[14] = C3[4] * z * (xx - yy)
                basis[15] = -C3[0] * x * (xx - np.float32(3) * yy)
        for channel in range(3):
            value = np.float32(0.5)
            for c in range(count):
                value += basis[c] * coefficients[i, c, channel]
            colors[k, channel] = max(value, np.float32(0))
