"""Without a map: whether neighbouring images agree by their poses and intrinsics, and which usual mistake explains it.

A transform that all poses share, and their scale, change nothing between two images and can't be seen so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.doctor.conventions import convention_explanations
from feature_gs_ros.doctor.evidence import Evidence
from feature_gs_ros.doctor.explanations import Explanation, resized_focal, with_cameras
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.doctor.intrinsics import RECALIBRATE, swapped_explanations
from feature_gs_ros.frames.two_view import ViewPair, supports
from feature_gs_ros.frames.umeyama import Array

MIN_PAIRS = 3  # that can be judged
ENOUGH = 0.75  # of the matches that any geometry explains: a stream that has so many is right
REACHED = 0.7  # of these that an explanation must have to be named
GAIN = 1.4  # times the support of the stream as given
MISMATCH = 0.35  # of what any geometry explains: with less and no explanation the poses are wrong somehow
FACTORS = (0.25, 0.35, 0.5, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4, 2.0, 2.8, 4.0)
COEFFICIENTS = (-0.45, -0.3, -0.15, 0.15, 0.3)


@dataclass(frozen=True, eq=False)
class _Candidate:
    explanation: Explanation
    pairs: Sequence[ViewPair]


def pair_findings(evidence: Evidence) -> list[Finding]:
    """What disagrees between neighbouring images; nothing where too few can be judged."""
    pairs = evidence.pairs
    if len(pairs) < MIN_PAIRS:
        return []
    reached = np.array([pair.reached for pair in pairs])
    given = _supports(evidence, _Candidate(Explanation("good", evidence.cameras, "", ""), pairs))
    if given.sum() >= ENOUGH * reached.sum():
        return _single_pairs(evidence, given / reached)
    listed = _candidates(evidence, pairs)
    totals = [float(_supports(evidence, candidate).sum()) for candidate in listed]
    best = int(np.argmax(totals))
    if totals[best] >= max(REACHED * reached.sum(), GAIN * given.sum()):
        return [_named(listed[best].explanation, float(given.sum()), totals[best])]
    if given.sum() < MISMATCH * reached.sum():
        return [_mismatch(evidence, given / reached)]
    return _single_pairs(evidence, given / reached)


def _supports(evidence: Evidence, candidate: _Candidate) -> Array:
    return supports(candidate.pairs, dict(zip(evidence.rows, candidate.explanation.cameras, strict=True)))


def _candidates(evidence: Evidence, pairs: Sequence[ViewPair]) -> list[_Candidate]:
    """The usual mistakes that can be seen between two images."""
    conventions = [other for other in convention_explanations(evidence) if "left-handed" not in other.code]
    given = [*conventions, *swapped_explanations(evidence), *_intrinsics(evidence)]
    flipped = Explanation(
        "images.mirrored",
        evidence.cameras,
        "the images are mirrored, or the poses are left-handed (without a map both look the same)",
        "Turn off flipping in the driver, or write camera_from_world with OpenCV axes (x right, y down, z forward)",
    )
    mirrored = [
        replace(
            pair,
            first_pixels=_mirrored(pair.first_pixels, evidence.all_frames[pair.first].camera),
            second_pixels=_mirrored(pair.second_pixels, evidence.all_frames[pair.second].camera),
        )
        for pair in pairs
    ]
    return [*(_Candidate(explanation, pairs) for explanation in given), _Candidate(flipped, mirrored)]


def _mirrored(pixels: Array, camera: Camera) -> Array:
    return np.column_stack([camera.width - pixels[:, 0], pixels[:, 1]])


def _intrinsics(evidence: Evidence) -> list[Explanation]:
    """Focal lengths and lenses, coarsely: two images say less of them than a map does."""
    found = []
    for factor in FACTORS:
        found.append(
            Explanation(
                "intrinsics.focal",
                with_cameras(evidence, lambda c, f=factor: resized_focal(c, f)),  # type: ignore[misc]
                f"the focal length is wrong: the images show about {factor:.2g} times what is given",
                RECALIBRATE,
                values={"factor": factor},
            )
        )
        found.append(
            Explanation(
                "intrinsics.resolution",
                with_cameras(evidence, lambda c, f=factor: replace(resized_focal(c, f), cx=f * c.cx, cy=f * c.cy)),  # type: ignore[misc]
                f"the intrinsics are of another resolution, about {1 / factor:.2g} times the image's",
                f"Multiply fx, fy, cx and cy by about {factor:.2g}, or record the camera_info of this image size",
                values={"factor": factor},
            )
        )
    for k1 in COEFFICIENTS:
        lens = Distortion("plumb_bob", (k1, 0.0, 0.0, 0.0))
        found.append(
            Explanation(
                "intrinsics.distortion",
                with_cameras(evidence, lambda c, lens=lens: replace(c, distortion=lens)),  # type: ignore[misc]
                f"the lens's distortion is wrong or missing (about k1 {k1:+.2g})",
                RECALIBRATE,
                values={"k1": k1},
            )
        )
    if evidence.frames[0].camera.distortion is not None:
        found.append(
            Explanation(
                "intrinsics.distortion-twice",
                with_cameras(evidence, lambda c: replace(c, distortion=None)),
                "the images are rectified already, and the distortion is taken out of them a second time",
                "Give no distortion, or record the unrectified images (--rectified says which)",
            )
        )
    return found


def _named(explanation: Explanation, given: float, total: float) -> Finding:
    gain = (total - given) / total
    return Finding(
        explanation.code,
        "error" if given < 0.6 * total else "warning",
        float(np.clip(0.4 + 0.5 * gain, 0, 0.9)),  # a map would say more
        explanation.what,
        explanation.advice,
        (),
        {**explanation.values, "gain": gain},
    )


def _mismatch(evidence: Evidence, fractions: Array) -> Finding:
    names = tuple(evidence.all_frames[pair.first].name for pair in evidence.pairs)
    return Finding(
        "poses.mismatch", "error", 0.85,
        f"neighbouring images disagree by their poses: these account for {np.median(fractions):.0%} of what both show",
        "Give the map (--map), by which the reason can be found", names, {"explained": float(np.median(fractions))},
    )  # fmt: skip


def _single_pairs(evidence: Evidence, fractions: Array) -> list[Finding]:
    """Neighbours that disagree where the others don't: a pose that is wrong."""
    wrong = [pair for pair, fraction in zip(evidence.pairs, fractions, strict=True) if fraction < MISMATCH]
    if not wrong:
        return []
    names = tuple(dict.fromkeys(evidence.all_frames[row].name for pair in wrong for row in (pair.first, pair.second)))
    return [
        Finding(
            "poses.jump", "error" if len(wrong) > 1 else "warning", 0.8,
            f"{len(wrong)} of {len(evidence.pairs)} pairs of neighbouring images disagree by their poses",
            "Leave these frames out (--skip), and check the localisation or tf publisher", names,
            {"pairs": float(len(wrong))},
        )
    ]  # fmt: skip
