"""numba kernels: no checks, no types; every argument is checked by the module that calls them.

A kernel takes a range ``start <= … < stop`` first, what it reads next, what it writes last. Ranges of one call write
disjoint parts, in a fixed order each, so that no result depends on the number of threads, bit for bit on one machine.
Arrays are C-contiguous; real numbers are float32, in memory and in sums. Arrays that belong together come as the
NamedTuples of `rasterizer.cpu.arrays`, which say shape, type, unit and owner; kernels take them apart first, as looking
up an array in an inner loop would count references. The equations stand in the docstrings; the constants are those of
`rasterizer.conventions`.

==========================  =====================================================================================
`projection`                Gaussians to splats: cull, project, conic, footprint
`spherical_harmonics`       colours of a direction
`binning`                   pairs of tile and splat, front to back
`alpha`                     σ, α, w and T of a row of pixels: Eq. (1)–(3)
`blending`                  W v: images
`cells`, `coarse`           Wᵀ M U per pair and cell, and (Wᵀ M U) F where tiles lie between cells
`product`, `entries`        (Wᵀ M U) F of many cells per tile; the same as a sparse matrix
`pixels`, `labels`          Wᵀ M F and Wᵀ M L without cells: few channels per pixel; a label image
`backward`, `chain`         gradients of images to splats, and of splats to the map
==========================  =====================================================================================
"""
