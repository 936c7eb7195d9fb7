"""Time: clocks that differ, images on others' poses, stamps out of order, poses that stand, jump or are guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.errors import NoTransformError
from feature_gs_ros.doctor.evidence import Evidence, KnowsGaps
from feature_gs_ros.doctor.explanations import Explanation, fitted
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.frames.features import Matches2D3D
from feature_gs_ros.frames.reprojection import PosedCamera, matching_scale, residuals
from feature_gs_ros.frames.umeyama import Array

MAX_OFFSET = 2.0  # s that clocks may differ
OFFSET_STEP = 0.1  # s, or frames: of the coarse search
MAX_SHIFT = 3  # frames by which images may be on others' poses
NEAR_FRAME = 0.03  # of a period: an offset so near to whole frames is one of frames
MIN_GAP = 0.25  # s between tf samples from which a pose between them is a guess
SHEARS = np.linspace(-0.15, 0.15, 61)  # px aside per row that are tried
NEAREST = 0.25  # of the distance to its own pose: an image so near to another frame's has that one's
STANDING = 1e-7  # metres or rad: less between two poses is none at all
STANDING_NOISE = 2.0  # of 255: mean difference of images that show no motion


def shift_explanations(evidence: Evidence) -> list[Explanation]:
    """Images on the poses of frames before or after."""
    found = []
    for shift in (-1, 1, *range(2, MAX_SHIFT + 1), *range(-2, -MAX_SHIFT - 1, -1)):
        if abs(shift) >= len(evidence.poses):
            continue
        found.append(
            Explanation(
                "poses.shifted",
                _shifted(evidence, shift),
                f"the images are on the poses of other frames: each has the pose of the {_nth(abs(shift))} frame "
                f"{'after' if shift < 0 else 'before'} it",
                "Pair images and poses by stamp or name, not by their order",
                0,
                {"frames": float(-shift)},
            )
        )
    return found


def _nth(count: int) -> str:
    return {1: "next", 2: "second", 3: "third"}.get(count, f"{count}th")


def _shifted(evidence: Evidence, shift: int) -> list[PosedCamera]:
    count = len(evidence.poses)
    return [
        PosedCamera(
            frame.camera,
            evidence.splat_from_map.camera_from_splat(evidence.all_frames[(row + shift) % count].camera_from_world),
        )
        for row, frame in zip(evidence.rows, evidence.frames, strict=True)
    ]


def clock_explanation(evidence: Evidence, matches: Matches2D3D) -> Explanation:
    """The clocks of images and poses differ by a constant; of streams without stamps, their counts do."""
    stamps = evidence.poses.stamps
    reach = MAX_OFFSET if stamps is not None else float(MAX_SHIFT)
    steps = np.arange(-reach, reach + OFFSET_STEP / 2, OFFSET_STEP)
    (offset,) = fitted(
        lambda x: evidence.moved_in_time(float(np.clip(x[0], -2 * reach, 2 * reach))), steps[:, None].tolist(), matches
    )
    cameras = evidence.moved_in_time(float(offset))
    advice = "Set the drivers' clocks (chrony, ptp), or add the offset to the images' stamps"
    if stamps is None:
        return Explanation(
            "poses.shifted", cameras, f"the images are {offset:+.2f} frames from their poses",
            "Pair images and poses by stamp or name, not by their order", 1, {"frames": float(-offset)},
        )  # fmt: skip
    period = float(np.median(np.abs(np.diff(stamps)))) if len(stamps) > 1 else 0.0
    whole = period > 0 and abs(offset / period - round(offset / period)) < NEAR_FRAME and round(offset / period) != 0
    frames = (
        f", which is {abs(round(offset / period))} frame(s): images may be on their neighbours' poses" if whole else ""
    )
    return Explanation(
        "time.offset",
        cameras,
        f"the images' stamps are {1000 * abs(offset):.0f} ms {'early' if offset > 0 else 'late'} against the poses'"
        f"{frames}",
        advice,
        1,
        {"offset_ms": 1000 * float(offset)},
    )


def rolling_shutter_explanation(evidence: Evidence, matches: Matches2D3D) -> Explanation:
    """Rows of an image taken one after another while the camera moves: each image is sheared by its own amount."""
    off, pixels = residuals(evidence.cameras, matches), matches.pixels.copy()
    worst = 0.0
    for index, rows in matches.by_frame:
        camera = evidence.frames[index].camera
        below = matches.pixels[rows, 1] - camera.height / 2
        scale = matching_scale(camera)
        trials = [
            float(np.maximum(0, 1 - np.square([off[rows, 0] + s * below / scale, off[rows, 1]]).sum(axis=0) / 9).sum())
            for s in SHEARS
        ]
        shear = float(SHEARS[int(np.argmax(trials))])
        pixels[rows, 0] -= shear * below
        worst = max(worst, abs(shear))
    return Explanation(
        "images.rolling-shutter",
        evidence.cameras,
        f"rows are taken one after another while the camera moves (rolling shutter): images are sheared by up to "
        f"{100 * worst:.1f}%",
        "Move slower, or use a camera with a global shutter",
        len(matches.by_frame),
        {"shear": worst},
        Matches2D3D(matches.frames, pixels, matches.points),
    )


def stamp_findings(evidence: Evidence) -> list[Finding]:
    """What the stamps and poses alone say."""
    return [*_out_of_order(evidence), *_standing(evidence), *_gaps(evidence), *_jumps(evidence)]


def _out_of_order(evidence: Evidence) -> list[Finding]:
    stamps = evidence.poses.stamps
    findings = []
    if stamps is not None and len(stamps) > 1:
        late = np.flatnonzero(np.diff(stamps) < 0) + 1
        if len(late):
            names = tuple(evidence.poses.names[row] for row in late)
            findings.append(
                Finding(
                    "time.out-of-order", "error" if len(late) > 0.2 * len(stamps) else "warning", 1.0,
                    f"stamps go back in time {len(late)} times in {len(stamps)} frames",
                    "Check the driver's clock and that one recorder wrote the bag", names, {"count": float(len(late))},
                )
            )  # fmt: skip
        frames = evidence.all_frames
        seen = Counter((frame.source, frame.stamp_ns) for frame in frames)
        same = tuple(frame.name for frame in frames if seen[frame.source, frame.stamp_ns] > 1)
        if same:
            findings.append(
                Finding(
                    "time.repeated", "error" if len(same) > 0.2 * len(stamps) else "warning", 1.0,
                    f"{len(same)} of {len(stamps)} images have the same stamp as another of their camera",
                    "Stamp each image with the moment of its exposure", same, {"count": float(len(same))},
                )
            )  # fmt: skip
    repeated = evidence.stream.skipped.get("stamp was there before", 0)
    if repeated:
        findings.append(
            Finding(
                "time.repeated", "warning", 1.0, f"{repeated} images repeat an earlier stamp; they are left out",
                "Stamp each image with the moment of its exposure", (), {"count": float(repeated)},
            )
        )  # fmt: skip
    return findings


def _steps(evidence: Evidence) -> tuple[Array, Array]:
    """Of successive poses: metres [N - 1] and rad [N - 1]."""
    positions, rotations = evidence.poses.positions, Rotation.from_matrix(evidence.poses.rotations)
    turns = (rotations[:-1].inv() * rotations[1:]).magnitude()
    return np.linalg.norm(np.diff(positions, axis=0), axis=1), np.asarray(turns)


def _standing(evidence: Evidence) -> list[Finding]:
    """Poses that stay exactly the same while others move and the images change."""
    if len(evidence.poses) < 4:
        return []
    metres, turns = _steps(evidence)
    standing = (metres < STANDING) & (turns < STANDING)
    if not standing.any() or (standing.all() and metres.max() < STANDING and len(evidence.frames) < 2):
        return []
    pairs = np.flatnonzero(standing).astype(np.int64)
    moving = [int(row) for row in _spread(pairs, 6) if _images_differ(evidence, int(row))]
    if not moving:
        return []  # the robot stood, and so did the images
    names = tuple(evidence.poses.names[row + 1] for row in pairs)
    return [
        Finding(
            "poses.frozen", "error", 0.97,
            f"{len(pairs)} of {len(evidence.poses)} poses are exactly the one before, while the images move",
            "tf was not updated then: check the publisher, and leave these frames out (--skip)", names,
            {"count": float(len(pairs))},
        )
    ]  # fmt: skip


def _spread(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    chosen = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).astype(int))
    return np.asarray(values[chosen])


def _images_differ(evidence: Evidence, row: int) -> bool:
    small = []
    for frame in evidence.stream.frames([evidence.poses.names[row], evidence.poses.names[row + 1]]):
        grey = cv2.cvtColor(cv2.resize(frame.image, (64, 48), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        small.append(grey.astype(np.float32) - grey.mean())
    return len(small) == 2 and float(np.abs(small[0] - small[1]).mean()) > STANDING_NOISE


def _gaps(evidence: Evidence) -> list[Finding]:
    """Poses interpolated between tf samples far apart."""
    stream = evidence.stream
    if not isinstance(stream, KnowsGaps):
        return []
    gaps = []
    for frame in evidence.all_frames:
        try:
            gaps.append(stream.tf_gap(frame))
        except NoTransformError:
            gaps.append(0.0)
    values = np.array(gaps)
    usual = float(np.median(values))
    wide = np.flatnonzero(values > max(MIN_GAP, 5 * usual))
    if not len(wide):
        return []
    names = tuple(evidence.poses.names[row] for row in wide)
    return [
        Finding(
            "poses.gap", "warning", 0.9,
            f"{len(wide)} poses are interpolated over gaps of up to {values.max():.2f} s in tf",
            "Record tf without gaps, or leave these frames out (--skip)", names, {"seconds": float(values.max())},
        )
    ]  # fmt: skip


def _jumps(evidence: Evidence) -> list[Finding]:
    """Poses far off the way between the one before and the one after, in a stream that else moves smoothly."""
    stamps = evidence.poses.stamps
    if stamps is None or len(stamps) < 8 or (np.diff(stamps) <= 0).any():
        return []
    positions = evidence.poses.positions
    fraction = ((stamps[1:-1] - stamps[:-2]) / (stamps[2:] - stamps[:-2]))[:, None]
    off = np.linalg.norm(positions[1:-1] - (1 - fraction) * positions[:-2] - fraction * positions[2:], axis=1)
    chord = np.linalg.norm(positions[2:] - positions[:-2], axis=1)
    usual, step = float(np.median(off)), float(np.median(chord))
    # A pose that is wrong also puts its neighbours off, by half as much.
    jumping = (off > 10 * usual) & (off > 0.75 * step) & (off > 0.02)
    peaks = [row for row in np.flatnonzero(jumping) if off[row] >= off[max(0, row - 1) : row + 2].max() - 1e-12]
    if not peaks or len(peaks) > 0.3 * len(stamps):
        return []
    names = tuple(evidence.poses.names[row + 1] for row in peaks)
    return [
        Finding(
            "poses.jump", "error", 0.9,
            f"{len(peaks)} poses jump by up to {off.max():.2f} m off the way of their neighbours",
            "Leave these frames out (--skip), and check the localisation or tf publisher", names,
            {"metres": float(off.max())},
        )
    ]  # fmt: skip


def nearest_frames(evidence: Evidence, solved: Mapping[int, Array]) -> dict[int, int]:
    """For views with a pose of their own: which frame of the stream has it, as an offset; none where no frame does."""
    centres = evidence.splat_from_map.apply(evidence.poses.positions)
    rotations = evidence.splat_from_map.rotation @ evidence.poses.rotations
    extent = max(float(np.linalg.norm(np.ptp(centres, axis=0))), 1e-9)
    offsets = {}
    for index, pose in solved.items():
        world, row = np.linalg.inv(pose), evidence.rows[index]
        distance = np.linalg.norm(centres - world[:3, 3], axis=1) / extent
        turn = np.arccos(np.clip((np.einsum("nij,ij->n", rotations, world[:3, :3]) - 1) / 2, -1, 1))
        away = distance + turn
        nearest = int(away.argmin())
        if nearest == row or away[nearest] < NEAREST * away[row]:
            offsets[index] = nearest - row
    return offsets
