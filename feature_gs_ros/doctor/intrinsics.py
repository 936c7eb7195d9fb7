"""Intrinsics that aren't the image's: of another resolution, swapped, off, and lenses not applied or applied twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.doctor.evidence import Evidence
from feature_gs_ros.doctor.explanations import Explanation, fitted, resized_focal, with_cameras
from feature_gs_ros.frames.features import Matches2D3D
from feature_gs_ros.frames.reprojection import PosedCamera, residuals
from feature_gs_ros.frames.umeyama import Array

FACTORS = (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0)
STRETCHED = ((4 / 3, 1.0), (1.0, 4 / 3))  # fx and fy of 16:9 to 4:3 and back
SAME_CENTRE, SAME_FOCAL = 0.008, 0.01  # of the width, and relative: what noise of poses moves
SAME_SHAPE = 0.05  # relative: images are resized from 4:3 to 16:9, not by less
MAX_K = 1.5  # of a fitted radial coefficient
RECALIBRATE = "Calibrate the camera, or record the camera_info that belongs to this image size"


def swapped_explanations(evidence: Evidence) -> list[Explanation]:
    """Swapped values: nothing is fitted."""
    found = []
    camera = evidence.frames[0].camera
    if abs(camera.cx - camera.cy) > 0.02 * camera.width:
        found.append(
            Explanation(
                "intrinsics.swapped-size",
                with_cameras(evidence, lambda c: replace(c, fx=c.fy, fy=c.fx, cx=c.cy, cy=c.cx)),
                "the intrinsics are of an image with width and height swapped (cx and cy are)",
                "Swap cx with cy and fx with fy, or record the camera_info of this orientation",
            )
        )
        found.append(
            Explanation(
                "intrinsics.swapped-centre",
                with_cameras(evidence, lambda c: replace(c, cx=c.cy, cy=c.cx)),
                "cx and cy are swapped",
                "Swap cx with cy",
            )
        )
    if abs(camera.fx - camera.fy) > 0.002 * camera.fx:
        found.append(
            Explanation(
                "intrinsics.swapped-focal",
                with_cameras(evidence, lambda c: replace(c, fx=c.fy, fy=c.fx)),
                "fx and fy are swapped",
                "Swap fx with fy",
            )
        )
    return found


def intrinsics_explanations(evidence: Evidence, matches: Matches2D3D) -> list[Explanation]:
    """Values that are off by what the images say."""
    return [
        _resolution(evidence, matches),
        _focal(evidence, matches),
        _principal_point(evidence, matches),
        _aspect(evidence, matches),
        *_stretched(evidence, matches),
        *_other_camera(evidence, matches),
        *_lenses(evidence, matches),
    ]


def stretched_cameras(evidence: Evidence) -> list[list[PosedCamera]]:
    """The frames as if their images were stretched: points of a map rendered otherwise aren't recognised in them."""
    return [
        with_cameras(evidence, lambda c, x=x, y=y: resized_focal(c, x, y))  # type: ignore[misc]
        for x, y in STRETCHED
    ]


def _factor(x: float) -> float:
    return float(np.exp(np.clip(x, -3.5, 3.5)))


def _resolution(evidence: Evidence, matches: Matches2D3D) -> Explanation:
    """All of K by one factor: it belongs to a larger or smaller copy of the image."""

    def scaled(factor: float) -> list[PosedCamera]:
        return with_cameras(evidence, lambda c: replace(resized_focal(c, factor), cx=c.cx * factor, cy=c.cy * factor))

    (x,) = fitted(lambda x: scaled(_factor(x[0])), [[np.log(f)] for f in FACTORS], matches)
    factor = _factor(x)
    camera = evidence.frames[0].camera
    size = f"{camera.width / factor:.0f}×{camera.height / factor:.0f}"
    return Explanation(
        "intrinsics.resolution",
        scaled(factor),
        f"the intrinsics are of another resolution: of images of about {size}, not {camera.width}×{camera.height}",
        f"Multiply fx, fy, cx and cy by {factor:.3g}, or record the camera_info of this image size",
        1,
        {"factor": factor},
    )


def _focal(evidence: Evidence, matches: Matches2D3D) -> Explanation:
    def scaled(factor: float) -> list[PosedCamera]:
        return with_cameras(evidence, lambda c: resized_focal(c, factor))

    (x,) = fitted(lambda x: scaled(_factor(x[0])), [[np.log(f)] for f in FACTORS], matches)
    factor = _factor(x)
    return Explanation(
        "intrinsics.focal",
        scaled(factor),
        f"the focal length is wrong: the images show {factor:.3g} times what is given",
        RECALIBRATE,
        1,
        {"factor": factor},
    )


def _principal_point(evidence: Evidence, matches: Matches2D3D) -> Explanation:
    camera = evidence.frames[0].camera

    def moved(x: Array) -> list[PosedCamera]:
        shift = np.clip(x, -1, 1) * camera.width
        return with_cameras(evidence, lambda c: replace(c, cx=c.cx + float(shift[0]), cy=c.cy + float(shift[1])))

    starts = [[0.0, 0.0], *_common_shifts(evidence, matches)]
    solution = fitted(moved, starts, matches)
    dx, dy = (float(value) for value in np.clip(solution, -1, 1) * camera.width)
    return Explanation(
        "intrinsics.principal-point",
        moved(solution),
        f"the principal point is off by ({-dx:.0f}, {-dy:.0f}) px: ({camera.cx:.0f}, {camera.cy:.0f}) is given, the "
        f"images show ({camera.cx + dx:.0f}, {camera.cy + dy:.0f}). A crop with the whole image's K is so, too",
        "Subtract the crop's corner from cx and cy, or calibrate the camera",
        2,
        {"dx_px": dx, "dy_px": dy},
    )


def _common_shifts(evidence: Evidence, matches: Matches2D3D) -> list[list[float]]:
    """The densest shift of matches from where they are expected, as a fraction of the width."""
    off = -residuals(evidence.cameras, matches)  # px of the matched image
    near = off[np.abs(off).max(axis=1) < 200]
    if len(near) < 10:
        return []
    counts, x, y = np.histogram2d(near[:, 0], near[:, 1], bins=40, range=[[-200, 200], [-200, 200]])
    row, column = np.unravel_index(int(counts.argmax()), counts.shape)
    camera = evidence.frames[0].camera
    width = min(320.0, camera.width * 320 / max(camera.width, camera.height))
    return [[float(x[row] + 5) / width, float(y[column] + 5) / width]]


def _aspect(evidence: Evidence, matches: Matches2D3D) -> Explanation:
    """Both focal lengths, each by its own factor."""

    def scaled(x: Array) -> list[PosedCamera]:
        return with_cameras(evidence, lambda c: resized_focal(c, _factor(x[0]), _factor(x[1])))

    starts = [[0.0, 0.0], [0.3, 0.0], [0.0, 0.3], [-0.3, 0.0], [0.0, -0.3]]
    solution = fitted(scaled, starts, matches)
    return Explanation(
        "intrinsics.aspect",
        scaled(solution),
        f"the focal lengths are wrong: the images show {_factor(solution[0]):.3g} times fx and "
        f"{_factor(solution[1]):.3g} times fy",
        RECALIBRATE,
        2,
        {"factor_x": _factor(solution[0]), "factor_y": _factor(solution[1])},
    )


def _stretched(evidence: Evidence, matches: Matches2D3D) -> list[Explanation]:
    """K of an image of another shape, which was resized to this one's; none where the shape is the same."""

    def scaled(x: Array) -> list[PosedCamera]:
        a, b = _factor(x[0]), _factor(x[1])
        return with_cameras(evidence, lambda c: replace(resized_focal(c, a, b), cx=c.cx * a, cy=c.cy * b))

    starts = [[0.0, 0.0], *([float(np.log(x)), float(np.log(y))] for x, y in STRETCHED)]
    solution = fitted(scaled, starts, matches)
    x, y = _factor(solution[0]), _factor(solution[1])
    if abs(np.log(x / y)) < SAME_SHAPE:
        return []
    camera = evidence.frames[0].camera
    return [
        Explanation(
            "intrinsics.resolution",
            scaled(solution),
            f"the intrinsics are of images of about {camera.width / x:.0f}×{camera.height / y:.0f}, resized to "
            f"{camera.width}×{camera.height} without keeping their shape",
            f"Multiply fx and cx by {x:.3g}, fy and cy by {y:.3g}, or record the camera_info of this image size",
            2,
            {"factor_x": x, "factor_y": y},
        )
    ]


def _other_camera(evidence: Evidence, matches: Matches2D3D) -> list[Explanation]:
    """All of K: that of another camera, such as the other one of a stereo pair; none where less is as good."""
    camera = evidence.frames[0].camera

    def changed(x: Array) -> list[PosedCamera]:
        dx, dy = (float(value) * camera.width for value in np.clip(x[2:], -1, 1))
        return with_cameras(
            evidence,
            lambda c: replace(resized_focal(c, _factor(x[0]), _factor(x[1])), cx=c.cx + dx, cy=c.cy + dy),
        )

    shifts = [[0.0, 0.0], *_common_shifts(evidence, matches)]
    solution = fitted(changed, [[f, f, *shift] for shift in shifts for f in (0.0, 0.2, -0.2)], matches)
    found = changed(solution)[0].camera
    centre_moves = float(np.abs(solution[2:]).max()) > SAME_CENTRE
    focal_moves = float(np.abs(solution[:2]).max()) > SAME_FOCAL
    if not (centre_moves and focal_moves):
        return []
    return [
        Explanation(
            "intrinsics.other-camera",
            changed(solution),
            f"the intrinsics are another camera's: the images show about fx {found.fx:.0f}, fy {found.fy:.0f}, cx "
            f"{found.cx:.0f}, cy {found.cy:.0f}, and fx {camera.fx:.0f}, fy {camera.fy:.0f}, cx {camera.cx:.0f}, cy "
            f"{camera.cy:.0f} are given",
            "Record the camera_info of this camera (is it the other one of a stereo pair?), or calibrate it",
            4,
            {"fx": found.fx, "fy": found.fy, "cx": found.cx, "cy": found.cy},
        )
    ]


def _lenses(evidence: Evidence, matches: Matches2D3D) -> list[Explanation]:
    """A lens that isn't applied, applied twice, or another one."""
    camera = evidence.frames[0].camera
    found = []
    if camera.distortion is None:
        what, advice = "the images are distorted, and no distortion is given", "Give the lens's coefficients"
        found.append(_fitted_lens(evidence, matches, "intrinsics.distortion-missing", what, advice))
    else:
        found.append(
            Explanation(
                "intrinsics.distortion-twice",
                with_cameras(evidence, lambda c: replace(c, distortion=None)),
                "the images are rectified already, and the distortion is taken out of them a second time",
                "Give no distortion, or record the unrectified images (--rectified says which)",
            )
        )
        found.append(_fitted_lens(evidence, matches, "intrinsics.distortion", "the lens's coefficients are wrong",
                                  RECALIBRATE))  # fmt: skip
    if camera.distortion is None or camera.distortion.model != "equidistant":
        found.append(
            Explanation(
                "intrinsics.fisheye",
                with_cameras(evidence, lambda c: replace(c, distortion=Distortion("equidistant", (0.0,) * 4))),
                "the lens is a fisheye, taken for another one",
                "Give distortion_model equidistant with its four coefficients",
                4,  # a narrow fisheye is much like a barrel lens of two parameters: it must fit clearly better
            )
        )
    return found


def _fitted_lens(evidence: Evidence, matches: Matches2D3D, code: str, what: str, advice: str) -> Explanation:
    def bent(x: Array) -> list[PosedCamera]:
        k1, k2 = (float(value) for value in np.clip(x, -MAX_K, MAX_K))
        return with_cameras(evidence, lambda c: _with_lens(c, k1, k2))

    # The last one is a fisheye's series, atan r = r - r³ / 3 + r⁵ / 5.
    starts: Sequence[Sequence[float]] = [
        [0.0, 0.0], [-0.1, 0.0], [-0.25, 0.06], [-0.4, 0.15], [0.1, 0.0], [0.25, 0.0], [-0.33, 0.2],
    ]  # fmt: skip
    solution = fitted(bent, starts, matches)
    k1, k2 = (float(value) for value in np.clip(solution, -MAX_K, MAX_K))
    return Explanation(
        code, bent(solution), f"{what} (about k1 {k1:+.2f}, k2 {k2:+.2f})", advice, 2, {"k1": k1, "k2": k2}
    )


def _with_lens(camera: Camera, k1: float, k2: float) -> Camera:
    return replace(camera, distortion=Distortion("plumb_bob", (k1, k2, 0.0, 0.0)))
