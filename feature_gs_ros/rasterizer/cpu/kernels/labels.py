"""Wᵀ M L of a label image, L its one-hot matrix [pixels, classes]: a tile holds few labels, however many there are.

First the labels of each tile, then Σ_p w m per pair and label of its tile, then each splat's pairs merged.
"""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import broadcast, load, total
from feature_gs_ros.rasterizer.cpu.constants import CHECK_EVERY, LANES, TILE
from feature_gs_ros.rasterizer.cpu.kernels.alpha import CENTRES, gaussian_at, open_rows, pair_weights, start_tile

ZERO = np.float32(0)


@inline
def index_of(label, listed, first, count):
    """Where the label stands in the list [first, first + count), counted from its first; count if nowhere."""
    index = 0
    while index < count and listed[first + index] != label:
        index += 1
    return index


@kernel
def list_labels(start, stop, tiles, image):
    """Fill ``listed`` and ``counts`` of a `LabelImage` for the tiles ``start <= t < stop``, in the pixels' order."""
    edges_x, edges_y = tiles.x.edges, tiles.y.edges
    labels, listed, counts = image.labels, image.listed, image.counts
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        row = tile // columns
        column, first, count = tile - row * columns, tile * LANES, 0
        for y in range(edges_y[row], edges_y[row + 1]):
            for x in range(edges_x[column], edges_x[column + 1]):
                label = labels[y, x]
                if label >= 0 and index_of(label, listed, first, count) == count:
                    listed[first + count] = label
                    count += 1
        counts[tile] = count


@inline
def open_masks(bounds, image, first, count, masks):
    """m(p) of a tile's pixels, one plane per label."""
    labels, valid, listed = image.labels, image.valid, image.listed
    x0, x1, y0, y1 = bounds
    masks[: count * LANES] = ZERO
    for y in range(y0, y1):
        for x in range(x0, x1):
            label = labels[y, x]
            if label >= 0:
                plane = index_of(label, listed, first, count)
                masks[plane * LANES + (y - y0) * TILE + x - x0] = valid[y, x] if valid.shape[0] > 0 else np.float32(1)


@kernel
def label_sums(start, stop, splats, bins, tiles, image, found):
    """Fill ``starts`` and ``sums`` of `LabelSums`, whose sums hold zeros, for the tiles ``start <= t < stop``."""
    entries, gaussians, pair_slots = bins.entries, bins.gaussians, bins.pair_slots
    counts, tile_starts, starts, sums = image.counts, found.tile_starts, found.starts, found.sums
    transmittance, weights = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    masks = np.empty(max(1, counts.max()) * LANES, np.float32)
    for tile in range(start, stop):
        count = counts[tile]
        bounds = start_tile(tile, tiles, transmittance)
        open_masks(bounds, image, tile * LANES, count, masks)
        x0, _, y0, y1 = bounds
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            first = tile_starts[tile] + (entry - entries[tile]) * count
            starts[pair_slots[entry]] = first
            if top == bottom:
                continue
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            row0, row1, drawn = pair_weights(splats, i, xs, y0, top, bottom, transmittance, weights)
            if drawn > ZERO:
                for plane in range(count):
                    added = broadcast(ZERO)
                    for lane in range((row0 - y0) * TILE, (row1 - y0) * TILE, TILE):
                        added += load(weights, lane) * load(masks, plane * LANES + lane)
                    sums[first + plane] = total(added)
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)


@kernel
def count_labels(start, stop, rects, slots, columns, counts, found, entries):
    """How many sums of each splat's pairs are above 0, into ``entries`` [V]: at least as many as it has labels."""
    starts, sums = found.starts, found.sums
    for i in range(start, stop):
        slot, several = slots[i], 0
        for y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            for x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                for plane in range(counts[y * columns + x]):
                    several += 1 if sums[starts[slot] + plane] > ZERO else 0
                slot += 1
        entries[i] = several


@kernel
def merge_labels(start, stop, rects, slots, columns, image, found, ends, sizes, labels, weights):
    """Each splat's labels, each once in the order of its slots, and their Σ w m, from ``ends[i]`` on.

    How many they are goes to ``sizes`` [V].
    """
    listed, counts, starts, sums = image.listed, image.counts, found.starts, found.sums
    for i in range(start, stop):
        slot, first, count = slots[i], ends[i], 0
        for y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            for x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                tile = y * columns + x
                for plane in range(counts[tile]):
                    weight = sums[starts[slot] + plane]
                    if weight > ZERO:
                        label = listed[tile * LANES + plane]
                        index = index_of(label, labels, first, count)
                        if index == count:
                            labels[first + count], weights[first + count] = label, ZERO
                            count += 1
                        weights[first + index] += weight
                slot += 1
        sizes[i] = count
