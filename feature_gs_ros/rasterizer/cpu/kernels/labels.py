"""Wᵀ M L of a label image, L its one-hot matrix: a tile holds few labels, however many there are."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import broadcast, load, total
from feature_gs_ros.rasterizer.cpu.constants import CHECK_EVERY, LANES, TILE
from feature_gs_ros.rasterizer.cpu.kernels.alpha import CENTRES, gaussian_at, open_rows, pair_weights, start_tile

ZERO = np.float32(0)


@inline
def place_of(label, listed, first, count):
    """Where the label stands in the list [first, first + count), counted from its first; count if nowhere."""
    place = 0
    while place < count and listed[first + place] != label:
        place += 1
    return place


@kernel
def list_labels(start, stop, edges_x, edges_y, labels, listed, counts):
    """The labels of each tile, each once, in ``listed`` [tiles · LANES]; negative ones are none."""
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        row = tile // columns
        column, first, count = tile - row * columns, tile * LANES, 0
        for y in range(edges_y[row], edges_y[row + 1]):
            for x in range(edges_x[column], edges_x[column + 1]):
                label = labels[y, x]
                if label >= 0 and place_of(label, listed, first, count) == count:
                    listed[first + count] = label
                    count += 1
        counts[tile] = count


@inline
def open_masks(tile_bounds, labels, valid, listed, first, count, masks):
    """m(p) of a tile's pixels, a plane a label."""
    x0, x1, y0, y1 = tile_bounds
    masks[: count * LANES] = ZERO
    for y in range(y0, y1):
        for x in range(x0, x1):
            label = labels[y, x]
            if label >= 0:
                plane = place_of(label, listed, first, count)
                masks[plane * LANES + (y - y0) * TILE + x - x0] = valid[y, x] if valid.shape[0] > 0 else np.float32(1)


@kernel
def label_sums(
    start, stop, splats, entries, gaussians, pair_slots, edges_x, edges_y,
    labels, valid, listed, counts, begins, places, sums,
):  # fmt: skip
    """Σ w m over a pair's pixels of each label of its tile; ``sums`` hold zeros, ``places`` tell where by slot."""
    transmittance, weights = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    masks = np.empty(max(1, counts.max()) * LANES, np.float32)
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        count = counts[tile]
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, transmittance)
        open_masks((x0, x1, y0, y1), labels, valid, listed, tile * LANES, count, masks)
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            place = begins[tile] + (entry - entries[tile]) * count
            places[pair_slots[entry]] = place
            if top == bottom:
                continue
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            row0, row1, drawn = pair_weights(splats, i, xs, y0, top, bottom, transmittance, weights)
            if drawn > ZERO:
                for plane in range(count):
                    added = broadcast(ZERO)
                    for lane in range((row0 - y0) * TILE, (row1 - y0) * TILE, TILE):
                        added += load(weights, lane) * load(masks, plane * LANES + lane)
                    sums[place + plane] = total(added)
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)


@kernel
def count_labels(start, stop, rects, slots, columns, counts, places, sums, entries):
    """How many entries each Gaussian's tiles have with weight: at least as many as it has labels."""
    for i in range(start, stop):
        slot, found = slots[i], 0
        for y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            for x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                for plane in range(counts[y * columns + x]):
                    found += 1 if sums[places[slot] + plane] > ZERO else 0
                slot += 1
        entries[i] = found


@kernel
def merge_labels(start, stop, rects, slots, columns, listed, counts, places, sums, ends, found, labels, weights):
    """Each Gaussian's labels, each once, and their weights from ``ends[i]`` on; how many goes to ``found``."""
    for i in range(start, stop):
        slot, first, count = slots[i], ends[i], 0
        for y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            for x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                tile = y * columns + x
                for plane in range(counts[tile]):
                    weight = sums[places[slot] + plane]
                    if weight > ZERO:
                        label = listed[tile * LANES + plane]
                        place = place_of(label, labels, first, count)
                        if place == count:
                            labels[first + count], weights[first + count] = label, ZERO
                            count += 1
                        weights[first + place] += weight
                slot += 1
        found[i] = count
