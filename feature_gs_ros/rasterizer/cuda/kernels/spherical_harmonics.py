"""The real spherical-harmonics basis of Inria's 3DGS and gsplat, degrees 0 to 3: colours, and their gradients."""

import warp as wp

wp.set_module_options({"enable_backward": False})

vec16 = wp.types.vector(length=16, dtype=float)
C0 = wp.constant(0.28209479177387814)
C1 = wp.constant(0.4886025119029199)
C20, C21, C22 = wp.constant(1.0925484305920792), wp.constant(0.31539156525252005), wp.constant(0.5462742152960396)
C30, C31 = wp.constant(0.5900435899266435), wp.constant(2.890611442640554)
C32, C33, C34 = wp.constant(0.4570457994644658), wp.constant(0.3731763325901154), wp.constant(1.445305721320277)


@wp.func
def basis_of(d: wp.vec3) -> vec16:
    """All sixteen basis functions at a unit direction."""
    x, y, z = d[0], d[1], d[2]
    xx, yy, zz = x * x, y * y, z * z
    return vec16(
        C0,
        -C1 * y, C1 * z, -C1 * x,
        C20 * x * y, -C20 * y * z, C21 * (2.0 * zz - xx - yy), -C20 * x * z, C22 * (xx - yy),
        -C30 * y * (3.0 * xx - yy), C31 * x * y * z, -C32 * y * (4.0 * zz - xx - yy),
        C33 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy), -C32 * x * (4.0 * zz - xx - yy), C34 * z * (xx - yy),
        -C30 * x * (xx - 3.0 * yy),
    )  # fmt: skip


@wp.func
def slope_of(d: wp.vec3, g: vec16) -> wp.vec3:
    """Σ_n g_n ∇Y_n(d): the gradient at a direction of the functions' sum by g."""
    x, y, z = d[0], d[1], d[2]
    xx, yy, zz = x * x, y * y, z * z
    along_x = (
        -C1 * g[3] + C20 * y * g[4] - 2.0 * C21 * x * g[6] - C20 * z * g[7] + 2.0 * C22 * x * g[8]
        - 6.0 * C30 * x * y * g[9] + C31 * y * z * g[10] + 2.0 * C32 * x * y * g[11] - 6.0 * C33 * x * z * g[12]
        - C32 * (4.0 * zz - 3.0 * xx - yy) * g[13] + 2.0 * C34 * x * z * g[14] - 3.0 * C30 * (xx - yy) * g[15]
    )  # fmt: skip
    along_y = (
        -C1 * g[1] + C20 * x * g[4] - C20 * z * g[5] - 2.0 * C21 * y * g[6] - 2.0 * C22 * y * g[8]
        - 3.0 * C30 * (xx - yy) * g[9] + C31 * x * z * g[10] - C32 * (4.0 * zz - xx - 3.0 * yy) * g[11]
        - 6.0 * C33 * y * z * g[12] + 2.0 * C32 * x * y * g[13] - 2.0 * C34 * y * z * g[14] + 6.0 * C30 * x * y * g[15]
    )  # fmt: skip
    along_z = (
        C1 * g[2] - C20 * y * g[5] + 4.0 * C21 * z * g[6] - C20 * x * g[7] + C31 * x * y * g[10]
        - 8.0 * C32 * y * z * g[11] + C33 * (6.0 * zz - 3.0 * xx - 3.0 * yy) * g[12] - 8.0 * C32 * x * z * g[13]
        + C34 * (xx - yy) * g[14]
    )  # fmt: skip
    return wp.vec3(along_x, along_y, along_z)


@wp.func
def direction_of(mean: wp.vec3, eye: wp.vec3) -> wp.vec3:
    """From the eye to a Gaussian, of length 1."""
    return (mean - eye) / wp.max(wp.length(mean - eye), 1.0e-12)


@wp.kernel
def colors(
    rows: wp.array(dtype=wp.int32),
    means: wp.array(dtype=wp.vec3),
    sh: wp.array3d(dtype=float),
    eye: wp.vec3,
    result: wp.array2d(dtype=float),
):
    """Colour max(SH(direction) + ½, 0) of the given rows into the first three columns of ``result`` [V, ≥ 3].

    A thread per channel: all three in one take more registers than leave half of the warps.
    """
    k, channel = wp.tid()
    i = rows[k]
    basis = basis_of(direction_of(means[i], eye))
    value = float(0.5)
    for n in range(16):
        if n < sh.shape[1]:
            value += basis[n] * sh[i, n, channel]
    result[k, channel] = wp.max(value, 0.0)


@wp.kernel
def harmonics_back(
    rows: wp.array(dtype=wp.int32),
    means: wp.array(dtype=wp.vec3),
    eye: wp.vec3,
    colors: wp.array2d(dtype=float),
    d_splats: wp.array2d(dtype=float),
    d_sh: wp.array3d(dtype=float),
):
    """∂L/∂colour, columns 6 to 8 of ``d_splats``, to the harmonics; a thread per channel."""
    k, channel = wp.tid()
    i = rows[k]
    basis = basis_of(direction_of(means[i], eye))
    if colors[k, channel] > 0.0:  # max(…, 0) lets nothing through where it clips
        for n in range(16):
            if n < d_sh.shape[1]:
                d_sh[i, n, channel] = basis[n] * d_splats[k, 6 + channel]


@wp.kernel
def direction_back(
    rows: wp.array(dtype=wp.int32),
    means: wp.array(dtype=wp.vec3),
    sh: wp.array3d(dtype=float),
    eye: wp.vec3,
    colors: wp.array2d(dtype=float),
    d_splats: wp.array2d(dtype=float),
    d_means: wp.array(dtype=wp.vec3),
):
    """The same through the direction to the means, which are added to."""
    k = wp.tid()
    i = rows[k]
    g = wp.vec3()
    for channel in range(3):
        if colors[k, channel] > 0.0:
            g[channel] = d_splats[k, 6 + channel]
    d_basis = vec16()
    for n in range(16):
        if n < sh.shape[1]:
            d_basis[n] = sh[i, n, 0] * g[0] + sh[i, n, 1] * g[1] + sh[i, n, 2] * g[2]
    direction = direction_of(means[i], eye)
    slope = slope_of(direction, d_basis)
    # A direction's length doesn't count.
    slope = (slope - wp.dot(slope, direction) * direction) / wp.max(wp.length(means[i] - eye), 1.0e-12)
    d_means[i] = d_means[i] + slope
