"""Pictures of what the map knows: principal components, heat, masks with a legend; written as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.io.atomic import atomic_path

# Fixed colours of labels 1, 2, …: distinct for the eye, and the same in every picture of a label.
LABEL_COLORS = np.array(
    [
        [230, 60, 60], [60, 140, 230], [70, 190, 90], [245, 170, 40], [150, 80, 200], [40, 190, 190],
        [230, 100, 170], [140, 110, 70], [150, 200, 40], [90, 90, 110],
    ],
    np.uint8,
)  # fmt: skip
HIGHLIGHT = (40, 230, 60)
REJECTED = (230, 60, 60)
THUMBNAIL = 160  # pixels of a cut-out's side
CHUNK = 16384  # Gaussians projected at once


def save_png(image: Image, path: str | Path) -> None:
    """Write an RGB image [H, W, 3] (or a label image [H, W] uint8/uint16); whole or not at all."""
    pixels = image[:, :, ::-1] if image.ndim == 3 else image
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise FeatureGsError(f"can't encode an image of shape {image.shape} as PNG")
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data.tobytes())
    except OSError as error:
        raise FeatureGsError(f"can't write the picture '{path}': {error.strerror or error}") from error


def to_image(color: Tensor) -> Image:
    """Rendered colour [H, W, 3] in 0..1 as uint8."""
    return (color.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def depth_image(depth: Tensor) -> Image:
    """Σ w z and Σ w [H, W, 2] as colours: near is warm, nothing is black."""
    opacity = depth[:, :, 1]
    solid = opacity > 0.5
    z = torch.where(solid, depth[:, :, 0] / opacity.clamp_min(1e-6), torch.zeros_like(opacity))
    if not bool(solid.any()):
        return np.zeros((*z.shape, 3), np.uint8)
    near, far = (float(torch.quantile(z[solid][:: max(1, int(solid.sum()) // 100_000)], q)) for q in (0.01, 0.99))
    image = heat((1 - (z - near) / max(far - near, 1e-9)).clamp(0, 1))
    image[~solid.numpy()] = 0
    return image


def heat(values: Tensor) -> Image:
    """Values [H, W] in 0..1 as colours [H, W, 3]."""
    gray = (values.clamp(0, 1) * 255).to(torch.uint8).numpy()
    colored: Image = np.ascontiguousarray(cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO)[:, :, ::-1])
    return colored


def principal_colors(features: Tensor, weight: Tensor) -> Tensor:
    """Three principal components [N, 3] in 0..1 of features [N, D], weighted by weight [N]; 0.5 is the mean."""
    sample = weight.nonzero()[:, 0]
    sample = sample[:: max(1, len(sample) // 20_000)]
    values, fractions = features[sample].float(), weight[sample].float().unsqueeze(1)
    mean = (values * fractions).sum(0) / fractions.sum().clamp_min(1e-12)
    centred = (values - mean) * fractions.sqrt()
    width = min(3, *centred.shape) if len(sample) else 0
    if width == 0:
        return torch.full((len(features), 3), 0.5)
    _, _, axes = torch.svd_lowrank(centred, q=min(8, *centred.shape), niter=4)
    # In chunks: a copy of the features may be as large as what is left of the memory.
    components = torch.cat([(rows.float() - mean) @ axes[:, :width] for rows in torch.split(features, CHUNK)])
    deviation = components[sample].std(dim=0, unbiased=False).clamp_min(1e-9)
    colors = torch.full((len(features), 3), 0.5)
    colors[:, :width] = (components / (5 * deviation) + 0.5).clamp(0, 1)
    return colors


def overlay_mask(
    image: Image, mask: NDArray[np.bool_], color: tuple[int, int, int] = HIGHLIGHT, rest: float = 0.6
) -> Image:
    """The image with the mask [H, W] tinted and outlined; the brightness of the rest is multiplied by ``rest``."""
    shown = (image * rest).astype(np.uint8)
    tint = np.array(color, np.float32)
    shown[mask] = (0.55 * image[mask] + 0.45 * tint).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, contours, -1, color, 2)
    return shown


def label_image(labels: NDArray[np.integer], names: Mapping[int, str], image: Image | None = None) -> Image:
    """Labels [H, W] in fixed colours with a legend, over an image if there is one; 0 stays clear."""
    base = np.full((*labels.shape, 3), 255, np.uint8) if image is None else image
    colors = LABEL_COLORS[(labels.astype(np.int64) - 1) % len(LABEL_COLORS)]
    fraction = 1.0 if image is None else 0.55
    shown: Image = np.where(labels[:, :, None] > 0, (1 - fraction) * base + fraction * colors, base).astype(np.uint8)
    entries = [
        (tuple(int(c) for c in LABEL_COLORS[(k - 1) % len(LABEL_COLORS)]), name) for k, name in names.items() if k
    ]
    return _with_legend(shown, entries)


def side_by_side(images: Sequence[Image], titles: Sequence[str]) -> Image:
    """Images of one size in a row, each under its title."""
    columns = [
        np.concatenate([_title_bar(image.shape[1], title), image]) for image, title in zip(images, titles, strict=True)
    ]
    return np.concatenate(columns, axis=1)


def thumbnails(images: Sequence[Image], captions: Sequence[str], marked: Sequence[bool], width: int) -> Image:
    """Images of any size as squares in rows of ``width`` pixels, each over its caption; marked ones in green."""
    across = max(1, width // (THUMBNAIL + 8))
    tiles = []
    for image, caption, mark in zip(images, captions, marked, strict=True):
        tile = np.full((THUMBNAIL + 36, THUMBNAIL + 8, 3), 255, np.uint8)
        small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        tile[4 : 4 + THUMBNAIL, 4 : 4 + THUMBNAIL] = small
        cv2.rectangle(tile, (1, 1), (THUMBNAIL + 6, THUMBNAIL + 6), HIGHLIGHT if mark else REJECTED, 3)
        cv2.putText(tile, caption, (6, THUMBNAIL + 26), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
        tiles.append(tile)
    rows = []
    for first in range(0, len(tiles), across):
        row = np.concatenate(tiles[first : first + across], axis=1)[:, :width]
        rows.append(np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255))
    return np.concatenate(rows)


def _title_bar(width: int, title: str) -> Image:
    bar = np.full((28, width, 3), 255, np.uint8)
    cv2.putText(bar, title, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (20, 20, 20), 1, cv2.LINE_AA)
    return bar


def _with_legend(image: Image, entries: Sequence[tuple[tuple[int, ...], str]]) -> Image:
    height = 24 * len(entries)
    bar = np.full((height, image.shape[1], 3), 255, np.uint8)
    for row, (color, name) in enumerate(entries):
        cv2.rectangle(bar, (8, 24 * row + 5), (24, 24 * row + 19), color, -1)
        cv2.putText(bar, name, (32, 24 * row + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([image, bar])
