"""Images themselves: mirrored, turned, red and blue swapped, blurred, badly exposed."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Image, rectified
from feature_gs_ros.core.errors import CameraError
from feature_gs_ros.doctor.evidence import Evidence
from feature_gs_ros.doctor.explanations import Explanation
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.frames.features import Matches2D3D, render_view, small_camera
from feature_gs_ros.frames.reprojection import PosedCamera
from feature_gs_ros.frames.umeyama import Array

COLOR_SIZE = 160  # px of the views whose colours are compared
COLOR_VIEWS = 5
MIN_CHROMA = 0.02  # standard deviation of red minus blue below which a map has no colours to speak of
SWAPPED_BY = 0.25  # correlation that swapped colours must gain
MAX_SATURATED = 0.35  # of the pixels of an image, beyond what the map's own colours have
MIN_GAIN, MAX_GAIN = 0.45, 2.2  # of an image's brightness to the map's
MIN_BRIGHTNESS = 18.0  # of 255, below which an image is black
BLUR_SIZE = 640  # px at which sharpness is measured
MAX_SOFTNESS = 0.66  # coarse to fine gradients along x or y: sharp images have 0.4 to 0.55, blurred ones 0.7 to 0.9
MUCH_SOFTER = 1.5  # times the median image

Floats = NDArray[np.float32]


def mirrored_explanations(evidence: Evidence, flipped: Matches2D3D) -> list[Explanation]:
    """The images flipped left to right, top to bottom.

    Args:
        flipped: matches of the images flipped left to right, in pixels of these.
    """
    size = np.array([[evidence.frames[index].camera.width, evidence.frames[index].camera.height]
                     for index in flipped.frames], np.float64).reshape(-1, 2)  # fmt: skip
    return [
        Explanation(
            "images.mirrored",
            evidence.cameras,
            "the images are mirrored left to right",
            "Turn off flipping in the driver (or flip them back)",
            matches=flipped,
        ),
        Explanation(
            "images.mirrored-vertically",
            evidence.cameras,
            "the images are mirrored top to bottom",
            "Turn off flipping in the driver (or flip them back)",
            matches=Matches2D3D(flipped.frames, size - flipped.pixels, flipped.points),
        ),
    ]


def turned_explanations(evidence: Evidence, matches: Matches2D3D) -> list[Explanation]:
    """The images upside down."""
    size = np.array([[evidence.frames[index].camera.width, evidence.frames[index].camera.height]
                     for index in matches.frames], np.float64).reshape(-1, 2)  # fmt: skip
    return [
        Explanation(
            "images.upside-down",
            evidence.cameras,
            "the images are upside down (turned by 180°)",
            "Turn them back in the driver, or turn the camera's frame by 180° about z",
            matches=Matches2D3D(matches.frames, size - matches.pixels, matches.points),
        )
    ]


def color_findings(evidence: Evidence, cameras: Sequence[PosedCamera], mirrored: bool = False) -> list[Finding]:
    """Red and blue swapped, and exposure, beside the map rendered where the cameras really are."""
    swaps, gains, names, dark = [], [], [], []
    for index in range(0, len(cameras), max(1, len(cameras) // COLOR_VIEWS)):
        pair = _beside(evidence, cameras[index], evidence.images[index], mirrored)
        if pair is None:
            continue
        live, drawn = pair
        names.append(evidence.frames[index].name)
        gains.append(float(live.mean() / max(drawn.mean(), 1e-6)))
        dark.append(float(live.mean()))
        swaps.append(_swap_gain(live, drawn))
    return [*_swapped(swaps), *_exposure(evidence, gains, dark, names)]


def _beside(evidence: Evidence, posed: PosedCamera, image: Image, mirrored: bool) -> tuple[Array, Array] | None:
    """Colours [K, 3] in 0..1 of an image and of the map where the map is opaque, a little blurred."""
    assert evidence.gaussians is not None
    taken = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
    try:
        straight, camera, _ = rectified(taken, posed.camera)
        small = small_camera(camera, COLOR_SIZE)
        view = render_view(evidence.gaussians, small, posed.camera_from_splat)
    except CameraError:
        return None
    shown = view.depth > 0
    if shown.mean() < 0.05:
        return None
    live = cv2.resize(straight, (small.width, small.height), interpolation=cv2.INTER_AREA)
    blurred = [cv2.GaussianBlur(picture.astype(np.float32) / 255, (0, 0), 2.0)[shown] for picture in (live, view.image)]
    return np.asarray(blurred[0], np.float64), np.asarray(blurred[1], np.float64)


def _swap_gain(live: Array, drawn: Array) -> float:
    """By how much red minus blue correlates better if the image's are swapped; NaN where there is no colour."""
    ours, theirs = live[:, 0] - live[:, 2], drawn[:, 0] - drawn[:, 2]
    # Swapping turns the sign of red minus blue about grey, not about its mean.
    if np.sqrt((theirs**2).mean()) < MIN_CHROMA or np.sqrt((ours**2).mean()) < MIN_CHROMA:
        return float("nan")
    cosine = float((ours * theirs).mean() / np.sqrt((ours**2).mean() * (theirs**2).mean()))
    return -2 * cosine


def _swapped(swaps: Sequence[float]) -> list[Finding]:
    known = [value for value in swaps if np.isfinite(value)]
    if len(known) < 1 or np.median(known) < SWAPPED_BY:
        return []
    confidence = min(0.99, 0.6 + float(np.median(known)) / 4)
    return [
        Finding(
            "images.red-blue-swapped", "error", confidence, "red and blue are swapped in the images (BGR for RGB)",
            "Set the encoding to what the data are (bgr8), or swap the channels", (), {"gain": float(np.median(known))},
        )
    ]  # fmt: skip


def _exposure(evidence: Evidence, gains: Sequence[float], dark: Sequence[float], names: Sequence[str]) -> list[Finding]:
    off = [
        (name, gain)
        for name, gain, mean in zip(names, gains, dark, strict=True)
        if not MIN_GAIN <= gain <= MAX_GAIN or mean < 0.03
    ]
    return [*_badly_exposed(off, len(gains)), *([] if off else _saturated(evidence))]


def exposure_findings(evidence: Evidence) -> list[Finding]:
    """Exposure so wrong that nothing of the map is recognised: burnt out, black, or far from the map's brightness."""
    gains = [
        float(image.mean() / max(float(view.image[view.depth > 0].mean()), 1.0))
        for image, view in zip(evidence.images, evidence.rendered, strict=True)
        if view.covered > 0.05
    ]
    saturated = float(np.mean([(image[::4, ::4].max(axis=2) >= 254).mean() for image in evidence.images]))
    gain = float(np.median(gains)) if gains else 1.0
    if saturated < MAX_SATURATED and MIN_GAIN <= gain <= MAX_GAIN and not _saturated(evidence):
        return []
    return [
        Finding(
            "images.exposure", "error", 0.8,
            f"the images are so badly exposed that the map is not recognised in them ({saturated:.0%} burnt out, "
            f"{gain:.2g} times the map's brightness)",
            "Fix exposure and white balance while recording", (), {"gain": gain, "saturated": saturated},
        )
    ]  # fmt: skip


def _badly_exposed(off: Sequence[tuple[str, float]], count: int) -> list[Finding]:
    if not off:
        return []
    worst = max(off, key=lambda pair: abs(np.log(max(pair[1], 1e-3))))[1]
    how = "darker" if worst < 1 else "brighter"
    times = max(worst, 1 / max(worst, 1e-3))
    return [
        Finding(
            "images.exposure", "warning", 0.9,
            f"{len(off)} of {count} images are up to {times:.1f} times {how} than the map",
            "Fix exposure and white balance while recording", tuple(name for name, _ in off), {"gain": worst},
        )
    ]  # fmt: skip


def _saturated(evidence: Evidence) -> list[Finding]:
    """Images of which much is black or white; needs no map."""
    bad = []
    for frame, image in zip(evidence.frames, evidence.images, strict=True):
        grey = image[::4, ::4].max(axis=2)
        if (image[::4, ::4].min(axis=2) >= 254).mean() > MAX_SATURATED or grey.mean() < MIN_BRIGHTNESS:
            bad.append(frame.name)
    if len(bad) < max(1, 0.1 * len(evidence.frames)):
        return []
    return [
        Finding(
            "images.exposure", "warning", 0.8, f"{len(bad)} of {len(evidence.frames)} images are black or burnt out",
            "Fix exposure while recording, or leave these frames out (--skip)", tuple(bad),
        )
    ]  # fmt: skip


def image_findings(evidence: Evidence) -> list[Finding]:
    """What the images alone say: damage, exposure, blur."""
    findings = list(_blurred(evidence))
    if evidence.gaussians is None:
        findings += _saturated(evidence)
    if evidence.damaged:
        findings.append(
            Finding("images.damaged", "warning", 1.0, f"{len(evidence.damaged)} images can't be decoded",
                    "They are left out; record them again", evidence.damaged)
        )  # fmt: skip
    return findings


def softness_of(image: Image) -> float:
    """Coarse gradients relative to the finest ones, whatever the contrast: near 1 where fine detail is gone."""
    height, width = image.shape[:2]
    factor = min(1.0, BLUR_SIZE / max(height, width))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine, coarse = (_gradients(np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma), np.float32)) for sigma in (0.7, 3.0))
    # Motion blurs along one direction alone.
    return float(np.sqrt(coarse / np.maximum(fine, 1e-6)).max())


def _gradients(grey: Floats) -> Array:
    """Mean squared differences along x and y."""
    return np.array([(np.diff(grey, axis=1) ** 2).mean(), (np.diff(grey, axis=0) ** 2).mean()], np.float64)


def _blurred(evidence: Evidence) -> list[Finding]:
    """Images whose fine detail is gone: many, or some beside the others."""
    softness = np.array([softness_of(image) for image in evidence.images])
    if len(softness) == 0:
        return []
    all_soft = softness > MAX_SOFTNESS
    bad = all_soft | ((softness > MUCH_SOFTER * float(np.median(softness))) & (softness > 0.8 * MAX_SOFTNESS))
    if not bad.any():
        return []
    names = tuple(frame.name for frame, is_bad in zip(evidence.frames, bad, strict=True) if is_bad)
    return [
        Finding(
            "images.blurred", "warning", 0.85, f"{len(names)} of {len(softness)} images looked at are blurred",
            "Move slower or expose shorter; leave blurred frames out (--skip)", names,
            {"softness": float(softness.max())},
        )
    ]  # fmt: skip
