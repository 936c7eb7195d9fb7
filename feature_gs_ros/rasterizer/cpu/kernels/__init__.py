"""numba kernels: no checks, no types; every argument is checked by the module that calls them.

A kernel takes a range ``start <= … < stop`` first, arrays it reads next, arrays it writes last. Ranges of one call
write disjoint parts, so that no result depends on the number of threads. All arrays are C-contiguous numpy arrays:

======================  ===================  =========  =========================================  ====================
name                    shape                dtype      what, in which order                       made by
======================  ===================  =========  =========================================  ====================
means, scales           [N, 3]               float32    the map's, along the Z-curve               order.py
quats, opacities        [N, 4], [N]          float32    the same; unit, wxyz                       order.py
low, high, largest      [B, 3], [B, 3], [B]  float32    bounds of 16 Gaussians each                order.py
places                  [V] or [16 B]        int32      index on the curve, ascending              projection.project
splats                  [V, 8]               float32    mean x, y; conic a, b, c; opacity;         projection.project
                                                        half width and height (`constants`)
depths                  [V]                  float32    camera z                                   projection.project
order                   [V]                  int32      indices into splats, front to back         numerics.sorting
rows                    [V]                  int32      the map's row of each splat                projection.py
pose, intrinsics        [3, 4], [6]          float32    camera from splat; fx, fy, cx, cy, w, h    projection.py
edges_x, edges_y        [tiles + 1]          int32      first pixel of each tile column or row     tiles.Axis
lower_x, lower_y        [W], [H]             int32      the cell at or before a pixel's centre     tiles.Axis (U)
fraction_x, fraction_y  [W], [H]             float32    weight of cell lower + 1                   tiles.Axis (U)
cell_of_column, _row    [tiles]              int32      the cell at or before a tile's first pixel tiles.Axis
rects                   [V, 4]               int16      tile column, row, columns, rows            binning.tile_rects
slots                   [V + 1]              int64      first slot of each splat's pairs           binning.tile_rects
entries                 [tiles + 1]          int64      first entry of each tile's list            tiles.bin_pairs
gaussians               [pairs]              int32      index into splats, by entry                binning.fill_pairs
pair_slots              [pairs]              int32      the pair's slot, by entry                  binning.fill_pairs
valid                   [H, W] or [0, 0]     float32    m(p); [0, 0]: all pixels count             masks.py
corners                 [pairs, 4]           float32    sums of cells (0,0) (0,1) (1,0) (1,1),     cells.corner_sums
                                                        by slot
offsets                 [pairs + 1]          int64      where each pair's block begins, by slot    cells.block_sizes
blocks, filled          [cells], [pairs]     f32, bool  cells' sums; whether a pair has any        cells.cell_blocks
cells                   [rows · columns, D]  float32    F of the grid, row by row                  the caller
numerator               [N, D]               float32    Wᵀ M U F along the curve, added to         accumulator.py
weight, view_count      [N]                  f32, i32   along the curve, added to                  accumulator.py
totals                  [V]                  float32    Wᵀ m of one view, by splat                 view.py
values, colors          [V, C], [V, 4]       float32    what is blended, by splat                  the caller
image, features         [H, W, C]            float32    W v                                        blending
======================  ===================  =========  =========================================  ====================

A *pair* is a splat and a tile that it may touch. It has an *entry*, counted by tile and there front to back, and a
*slot*, counted by splat and there by tile row and column. What is summed per pair is written by slot, so that a second
pass adds up each splat's pairs in a fixed order.
"""
