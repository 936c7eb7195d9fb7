"""(WᵀU) F: the D-dimensional half of back-projection, by owner. No thread writes where another does."""

import warp as wp

wp.set_module_options({"enable_backward": False})

CHANNELS = wp.constant(4)  # per thread: a weight is read once for all of them


@wp.kernel
def add_products(
    rows: wp.array(dtype=wp.int32),
    index: wp.array2d(dtype=wp.int32),
    blocks: wp.array2d(dtype=wp.int32),
    offsets: wp.array(dtype=wp.int32),
    weights: wp.array(dtype=float),
    columns: wp.array(dtype=wp.int32),
    first_cells: wp.array(dtype=wp.int32),
    values: wp.array2d(dtype=float),
    sign: float,
    totals: wp.array(dtype=float),
    numerator: wp.array2d(dtype=float),
    weight: wp.array(dtype=float),
    view_count: wp.array(dtype=wp.int32),
):
    """Add several views to the rows of the accumulators that any of them sees; each row is read and written once.

    ``rows`` [U] of the accumulators; ``index`` [views, U] says which of all blocks is a row's, −1 for none; ``columns``
    and ``first_cells`` [views] how a view's cells lie in ``values`` [cells of all views, D]. Neighbouring threads take
    neighbouring channels of one row, so that reads and writes are coalesced. Where there are ``totals`` [N], Wᵀm goes
    there.
    """
    u, thread = wp.tid()
    dimension = values.shape[1]
    stride = (dimension + CHANNELS - 1) / CHANNELS
    sums = wp.vec4()
    added = float(0.0)
    seen = int(0)
    for view in range(index.shape[0]):
        i = index[view, u]
        if i >= 0:
            across = blocks[i, 2]
            place = offsets[i]
            total = float(0.0)
            for line in range(blocks[i, 3]):
                first = first_cells[view] + (blocks[i, 1] + line) * columns[view] + blocks[i, 0]
                for column in range(across):
                    share = weights[place]
                    place += 1
                    if share > 0.0:
                        total += share
                        for k in range(CHANNELS):
                            channel = thread + k * stride
                            if channel < dimension:
                                sums[k] = sums[k] + share * values[first + column, channel]
            if total > 0.0:
                added += total
                seen += 1
    row = rows[u]
    if seen > 0:
        for k in range(CHANNELS):
            channel = thread + k * stride
            if channel < dimension:
                numerator[row, channel] = numerator[row, channel] + sign * sums[k]
        if thread == 0:
            if totals.shape[0] > 0:
                totals[row] = totals[row] + added
            else:
                weight[row] = weight[row] + sign * added
                view_count[row] = view_count[row] + int(sign) * seen


@wp.kernel
def add_totals(
    totals: wp.array(dtype=float),
    sign: float,
    weight: wp.array(dtype=float),
    view_count: wp.array(dtype=wp.int32),
):
    """One view's Wᵀm to the weight, and to the number of views in which a Gaussian has weight."""
    row = wp.tid()
    if totals[row] > 0.0:
        weight[row] = weight[row] + sign * totals[row]
        view_count[row] = view_count[row] + int(sign)


@wp.kernel
def clear_unseen(
    rows: wp.array(dtype=wp.int32),
    view_count: wp.array(dtype=wp.int32),
    numerator: wp.array2d(dtype=float),
    weight: wp.array(dtype=float),
):
    """Exact zeros in rows for which a subtraction left no view."""
    u, thread = wp.tid()
    row = rows[u]
    if view_count[row] == 0:
        numerator[row, thread] = 0.0
        if thread == 0:
            weight[row] = 0.0


@wp.kernel
def multiply(
    ends: wp.array(dtype=wp.int64),
    indices: wp.array(dtype=wp.int32),
    weights: wp.array(dtype=float),
    values: wp.array2d(dtype=float),
    product: wp.array2d(dtype=float),
):
    """A sparse matrix by rows times dense values [M, D]; a thread per row and channel."""
    row, channel = wp.tid()
    total = float(0.0)
    for k in range(int(ends[row]), int(ends[row + 1])):
        total += weights[k] * values[indices[k], channel]
    product[row, channel] = total
