"""Looks: small JPEGs of a field's most informative views, for a second look at what a query finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.provenance import KnownView
from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.errors import FieldError, ImageError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.io.images import decode_compressed
from feature_gs_ros.io.structured import Table
from feature_gs_ros.rasterizer import View

MAX_LOOKS = 24  # that a field keeps by default
MAX_BYTES = 8 << 20  # of all their JPEGs
MAX_SIDE = 1280  # pixels of the longer side
QUALITY = 90  # of the JPEGs
FOOTPRINT_SIDE = 96  # pixels of the longer side of the view in which a footprint is measured
FOOTPRINT_GAUSSIANS = 2048  # sampled evenly over the rows of the map


@dataclass(frozen=True, eq=False)
class Look:
    """One view's image as a JPEG, with its camera."""

    view: KnownView  # its camera is of the JPEG's size
    jpeg: bytes
    footprint: NDArray[np.float16]  # [S] fraction of the image that each sampled Gaussian fills, times 1000

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def camera(self) -> Camera:
        return self.view.camera

    @property
    def camera_from_splat(self) -> NDArray[np.float64]:
        return self.view.camera_from_splat

    @cached_property
    def image(self) -> Image:
        """Pixels [H, W, 3], decoded on first use.

        Raises:
            ImageError: the JPEG is damaged.
        """
        return decode_compressed(self.jpeg, f"look '{self.name}'", self.camera)


@dataclass(frozen=True)
class LookLimits:
    """How much of the images a field keeps; 0 looks keep nothing."""

    count: int = MAX_LOOKS
    total_bytes: int = MAX_BYTES
    side: int = MAX_SIDE

    def __post_init__(self) -> None:
        if self.count < 0 or self.total_bytes < 0 or self.side < 32:
            raise FieldError(
                f"looks: count={self.count}, total_bytes={self.total_bytes}, side={self.side} are out of range; "
                "give 0 or more looks and bytes, and a side of at least 32 pixels",
                code="field.range",
            )


@dataclass(frozen=True, eq=False)
class Looks:
    """The looks that a field keeps, a bounded number.

    Which ones is decided by what they show: the value of a set is ``Σ_i sqrt(Σ_v a_i(v))``, where ``a_i(v)`` is the
    fraction of view v that Gaussian i fills. The square root makes a second view of the same worth less than a first
    of something else. Where there are too many, the look whose removal loses least goes.
    """

    limits: LookLimits = field(default_factory=LookLimits)
    kept: tuple[Look, ...] = ()

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Look]:
        return iter(self.kept)

    @property
    def nbytes(self) -> int:
        """Bytes of the JPEGs."""
        return sum(len(look.jpeg) for look in self.kept)

    @property
    def memory(self) -> int:
        """Bytes in memory: the JPEGs, the footprints, and the images that were decoded for a second look."""
        decoded = (look.__dict__.get("image") for look in self.kept)
        images = sum(int(image.nbytes) for image in decoded if image is not None)
        return self.nbytes + sum(int(look.footprint.nbytes) for look in self.kept) + images

    def with_view(self, view: View, image: Image, name: str) -> Looks:
        """With one more view's image [H, W, 3], if it is worth it; ``name`` is the frame's."""
        if self.limits.count == 0 or self.limits.total_bytes == 0:
            return self
        return self.with_looks([take_look(view, image, name, self.limits.side)])

    def with_looks(self, others: Sequence[Look]) -> Looks:
        """Of both sets, within the limits of this one."""
        kept = [*self.kept, *others]
        total = sum(len(look.jpeg) for look in kept)
        while kept and (len(kept) > self.limits.count or total > self.limits.total_bytes):
            total -= len(kept.pop(_least_informative(kept)).jpeg)
        return replace(self, kept=tuple(kept))

    def without(self, name: str) -> Looks:
        """Without the looks of a view's name: the view was taken out of the field."""
        return replace(self, kept=tuple(look for look in self.kept if look.name != name))

    def within(self, limits: LookLimits) -> Looks:
        """Under other limits."""
        return Looks(limits).with_looks(self.kept)

    def as_tensors(self) -> dict[str, Tensor]:
        """What a field's file holds of them beside `as_json`; nothing where there are none."""
        if not self.kept:
            return {}
        data = np.frombuffer(b"".join(look.jpeg for look in self.kept), np.uint8)
        footprints = np.stack([look.footprint for look in self.kept])
        return {"looks": torch.from_numpy(data.copy()), "look_footprints": torch.from_numpy(footprints)}

    def as_json(self) -> dict[str, object]:
        """Limits and cameras."""
        return {
            "count": self.limits.count,
            "total_bytes": self.limits.total_bytes,
            "side": self.limits.side,
            "views": [{**look.view.as_json(), "bytes": len(look.jpeg)} for look in self.kept],
        }

    @staticmethod
    def from_file(content: Table, tensors: Mapping[str, Tensor]) -> Looks:
        """What `as_json` and `as_tensors` gave.

        Raises:
            FeatureGsError: the table's error: it didn't.
            KeyError, TypeError, ValueError: the tensors are not there, or don't fit.
            CameraError: a camera or pose is none.
        """
        limits = LookLimits(*(content.whole(key, least=0) for key in ("count", "total_bytes", "side")))
        entries = content.tables("views")
        if not entries:
            return Looks(limits)
        data, footprints = tensors["looks"], tensors["look_footprints"]
        sizes = [entry.whole("bytes", least=1) for entry in entries]
        if data.dtype != torch.uint8 or min(sizes) < 1 or sum(sizes) != data.numel() or len(footprints) != len(sizes):
            raise ValueError(f"{data.numel()} bytes of looks and {len(footprints)} footprints, named are {sizes}")
        if footprints.dtype != torch.float16 or footprints.dim() != 2 or not bool(torch.isfinite(footprints).all()):
            raise ValueError("the looks' footprints are not finite float16 of two axes")
        data_bytes, ends = data.numpy().tobytes(), np.cumsum(sizes).tolist()
        kept = [
            Look(KnownView.from_table(entry), data_bytes[end - size : end], footprint.numpy())
            for entry, size, end, footprint in zip(entries, sizes, ends, footprints, strict=True)
        ]
        return Looks(limits, tuple(kept))


def take_look(view: View, image: Image, name: str, side: int = MAX_SIDE) -> Look:
    """A view's image [H, W, 3] as a look: at most ``side`` pixels long, compressed, with what it shows of the map.

    Raises:
        ImageError: the image is not of the camera's size, or can't be compressed.
    """
    gaussians, camera = view.gaussians, view.camera
    if image.shape != (camera.height, camera.width, 3):
        raise ImageError(
            f"view '{name}' has an image of shape {image.shape}, its camera {camera.width}×{camera.height} pixels",
            code="image.shape",
        )
    small = _limited(camera, side)
    if (small.width, small.height) != (camera.width, camera.height):
        image = cv2.resize(image, (small.width, small.height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ImageError(f"view '{name}' of shape {image.shape} can't be compressed as JPEG", code="image.shape")
    tiny = _limited(camera, FOOTPRINT_SIDE)
    shown = rasterizer.view(gaussians, tiny, view.camera_from_splat, view.backend)
    _, weight = shown.backproject(FeatureGrid(torch.ones(1, 1, 1)))
    rows = torch.linspace(0, len(gaussians) - 1, min(FOOTPRINT_GAUSSIANS, len(gaussians))).long()
    footprint = (weight[rows] * (1000 / (tiny.width * tiny.height))).clamp_max(1000).to(torch.float16).numpy()
    return Look(KnownView(name, small, view.camera_from_splat), data.tobytes(), footprint)


def _limited(camera: Camera, side: int) -> Camera:
    factor = min(1.0, side / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))


def _least_informative(looks: Sequence[Look]) -> int:
    """Index of the look without which the value of the set falls least; of equals, the last."""
    areas = np.stack([look.footprint for look in looks]).astype(np.float64)
    without = np.sqrt(np.maximum(areas.sum(axis=0) - areas, 0.0)).sum(axis=1)
    return len(looks) - 1 - int(np.argmax(without[::-1]))
