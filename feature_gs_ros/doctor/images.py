"""Images themselves: mirrored, turned, red and blue swapped, blurred, badly exposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Camera, Image, rectified
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
CLEARLY_SWAPPED = 0.6  # the same of a single image; as much the other way, and it is clearly not
MIN_LIKENESS = 0.25  # correlation of brightness with the map's where it is seen rightly
MIN_DEVIATION = 4.0  # of 255, below which an image shows nothing
MAX_SATURATED = 0.35  # of the pixels of an image, beyond what the map's own colours have
MIN_GAIN, MAX_GAIN = 0.45, 2.2  # of an image's brightness to the map's
MIN_BRIGHTNESS = 18.0  # of 255, below which an image is black
MOVING, SAME = 0.02, 0.3  # m or rad between two poses; of 255 between two small images that are the same
BLUR_SIZE = 640  # px at which sharpness is measured
MAX_SOFTNESS = 0.66  # coarse to fine gradients along x or y: sharp images have 0.4 to 0.55, blurred ones 0.7 to 0.9
MUCH_SOFTER = 1.5  # times the median image

Floats = NDArray[np.float32]


FLIPPED = ("images.mirrored", "images.mirrored-vertically", "images.transposed")
TURNS = {90: "by 90° to the right", 180: "upside down (turned by 180°)", 270: "by 90° to the left"}  # clockwise


def mirrored_explanations(evidence: Evidence, flipped: Matches2D3D) -> list[Explanation]:
    """The images flipped left to right, top to bottom, or transposed.

    Args:
        flipped: matches of the images flipped left to right, in pixels of these.
    """
    advice = "Turn off flipping in the driver (or flip them back)"
    found = [
        Explanation(
            "images.mirrored", evidence.cameras, "the images are mirrored left to right", advice, matches=flipped
        )
    ]
    for degrees, cameras in _turned(evidence):
        code, what = "images.mirrored-vertically", "the images are mirrored top to bottom"
        if degrees != 180:
            code, what = "images.transposed", "the images are transposed (rows for columns), or mirrored and turned"
        found.append(Explanation(code, cameras, what, advice, matches=flipped))
    return found


def turned_explanations(evidence: Evidence) -> list[Explanation]:
    """The images turned by right angles against the axes that their poses are of."""
    return [
        Explanation(
            "images.upside-down" if degrees == 180 else "images.turned",
            cameras,
            f"the images are {TURNS[degrees]}" if degrees == 180 else f"the images are turned {TURNS[degrees]}",
            f"Turn them back in the driver, or turn the camera's frame by {degrees}° about z",
        )
        for degrees, cameras in _turned(evidence)
    ]


def _turned(evidence: Evidence) -> list[tuple[int, list[PosedCamera]]]:
    """Cameras turned about their optical axes, with K as it is given and as the turned image would have it."""
    found = []
    for degrees in TURNS:
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
        for with_k in (False, True):
            found.append(
                (
                    degrees,
                    [
                        PosedCamera(_turned_k(posed.camera, degrees) if with_k else posed.camera,
                                    turn @ posed.camera_from_splat)
                        for posed in evidence.cameras
                    ],
                )
            )  # fmt: skip
    return found


def _turned_k(camera: Camera, degrees: int) -> Camera:
    """K after the image was turned clockwise, whose size is the turned image's, where K is still the upright one's."""
    if degrees == 180:
        return replace(camera, cx=camera.width - camera.cx, cy=camera.height - camera.cy)
    cx, cy = (camera.width - camera.cy, camera.cx) if degrees == 90 else (camera.cy, camera.height - camera.cx)
    return replace(camera, fx=camera.fy, fy=camera.fx, cx=cx, cy=cy)


def color_findings(evidence: Evidence, cameras: Sequence[PosedCamera], mirrored: bool = False) -> list[Finding]:
    """Red and blue swapped, and exposure, beside the map rendered where the cameras really are."""
    compared = _compared(evidence, cameras, mirrored)
    swaps = {name: swap_gain(live, drawn) for name, (live, drawn) in compared.items()}
    gains = {name: float(live.mean() / max(drawn.mean(), 1e-6)) for name, (live, drawn) in compared.items()}
    dark = [float(live.mean()) for live, _ in compared.values()]
    return [*_swapped(swaps), *_exposure(evidence, list(gains.values()), dark, list(gains))]


def value_findings(evidence: Evidence) -> list[Finding]:
    """What is wrong with the values of images whose edges lie over the map's, while no points match."""
    compared = _compared(evidence, evidence.cameras, False)
    exposed = exposure_findings(evidence)
    if exposed or not compared:
        return exposed
    likeness = {name: _likeness(live, drawn) for name, (live, drawn) in compared.items()}
    usual = float(np.median(list(likeness.values())))
    if usual >= MIN_LIKENESS:
        return color_findings(evidence, evidence.cameras)
    inverted = usual < -MIN_LIKENESS
    return [
        Finding(
            "images.inverted" if inverted else "images.values", "error", 0.85,
            "the images are negatives: bright is dark in the map" if inverted else
            f"the images' brightness has little to do with the map's (correlation {usual:.2f}), though edges are where "
            "they should be: another encoding, or cut-off bits",
            "Set the encoding to what the data are; for 16 bits check which are in use", (), {"correlation": usual},
        )
    ]  # fmt: skip


def _compared(evidence: Evidence, cameras: Sequence[PosedCamera], mirrored: bool) -> dict[str, tuple[Array, Array]]:
    """{frame: colours of the image and of the map} of a few frames where the map is seen."""
    found = {}
    for index in range(0, len(cameras), max(1, len(cameras) // COLOR_VIEWS)):
        pair = _beside(evidence, cameras[index], evidence.images[index], mirrored)
        if pair is not None:
            found[evidence.frames[index].name] = pair
    return found


def _likeness(live: Array, drawn: Array) -> float:
    """Correlation of brightness; 1 where there is next to none of it to compare."""
    ours, theirs = (values.mean(axis=1) - values.mean() for values in (live, drawn))
    lengths = float(np.sqrt((ours**2).mean() * (theirs**2).mean()))
    return float((ours * theirs).mean()) / lengths if lengths > MIN_CHROMA**2 else 1.0


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


def swap_gain(live: Array, drawn: Array) -> float:
    """By how much red minus blue correlates better if the image's are swapped; NaN where there is no colour."""
    ours, theirs = live[:, 0] - live[:, 2], drawn[:, 0] - drawn[:, 2]
    # Swapping turns the sign of red minus blue about grey, not about its mean.
    if np.sqrt((theirs**2).mean()) < MIN_CHROMA or np.sqrt((ours**2).mean()) < MIN_CHROMA:
        return float("nan")
    cosine = float((ours * theirs).mean() / np.sqrt((ours**2).mean() * (theirs**2).mean()))
    return -2 * cosine


def _swapped(swaps: Mapping[str, float]) -> list[Finding]:
    known = {name: value for name, value in swaps.items() if np.isfinite(value)}
    clear = tuple(name for name, value in known.items() if value > CLEARLY_SWAPPED)
    in_all = bool(known) and float(np.median(list(known.values()))) >= SWAPPED_BY
    # Of one stream with two encodings, the others are as clearly right.
    in_some = bool(clear) and all(abs(value) > CLEARLY_SWAPPED for value in known.values())
    if not in_all and not in_some:
        return []
    gain = float(np.median([known[name] for name in clear] if clear else list(known.values())))
    where = "" if in_all else f"{len(clear)} of {len(known)} "
    return [
        Finding(
            "images.red-blue-swapped", "error", min(0.99, 0.6 + gain / 4),
            f"red and blue are swapped in {where}images (BGR for RGB)" if where else
            "red and blue are swapped in the images (BGR for RGB)",
            "Set the encoding to what the data are (bgr8), or swap the channels", () if in_all else clear,
            {"gain": gain},
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


def blank_findings(evidence: Evidence) -> list[Finding]:
    """Images of one colour, where the map has more."""
    if evidence.gaussians is None:
        return []
    blank = tuple(
        frame.name
        for frame, image, view in zip(evidence.frames, evidence.images, evidence.rendered, strict=True)
        if deviation_of(image) < MIN_DEVIATION and (view.covered < 0.05 or deviation_of(view.image) > 2 * MIN_DEVIATION)
    )
    if not blank or np.mean([image.mean() for image in evidence.images]) < MIN_BRIGHTNESS:
        return []
    return [
        Finding(
            "images.blank", "error" if len(blank) > 0.5 * len(evidence.frames) else "warning", 0.9,
            f"{len(blank)} of {len(evidence.frames)} images looked at are of one colour and show nothing",
            "Check the camera and its driver, and leave these frames out (--skip)", blank,
            {"images": float(len(blank))},
        )
    ]  # fmt: skip


def deviation_of(image: Image) -> float:
    """Of brightness, without what is finest."""
    small = cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA)
    return float(cv2.cvtColor(np.asarray(small, np.uint8), cv2.COLOR_RGB2GRAY).std())


def image_findings(evidence: Evidence) -> list[Finding]:
    """What the images alone say: damage, exposure, blur."""
    findings = [*_frozen(evidence), *_blurred(evidence)]
    if evidence.gaussians is None:
        findings += _saturated(evidence)
    if evidence.damaged:
        findings.append(
            Finding("images.damaged", "warning", 1.0, f"{len(evidence.damaged)} images can't be decoded",
                    "They are left out; record them again", evidence.damaged)
        )  # fmt: skip
    return findings


def _frozen(evidence: Evidence) -> list[Finding]:
    """The same image again and again while the poses move."""
    small = [cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA).astype(np.float32) for image in evidence.images]
    names = []
    for k in range(1, len(small)):
        before, after = (evidence.frames[row].camera_from_world for row in (k - 1, k))
        moves = float(np.abs(before - after).max()) > MOVING
        if moves and float(np.abs(small[k] - small[k - 1]).mean()) < SAME and deviation_of(evidence.images[k]) > SAME:
            names.append(evidence.frames[k].name)
    if not names:
        return []
    return [
        Finding(
            "images.frozen", "error", 0.95,
            f"{len(names)} of {len(small)} images looked at are exactly the one before, while the poses move",
            "The driver repeats its last image: check it, and leave these frames out (--skip)", tuple(names),
            {"images": float(len(names))},
        )
    ]  # fmt: skip


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
