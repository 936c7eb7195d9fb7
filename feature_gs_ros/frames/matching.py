"""Which pose of one set belongs to which of another: by name, by stamp with an unknown offset, or by shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.frames.poses import Array, Poses

MatchBy = Literal["auto", "name", "stamp", "shape"]

MIN_MATCHES = 3
MAX_VOTERS = 60  # poses of each set that vote; more are thinned out evenly
SAME_TURN = np.radians(1.5)  # rotations between the frames that differ less are one
SAME_POSITION = 0.02  # of the poses' extent: nearer ones are one position
MAX_PAIRS = 3000  # of candidate pairs, by which scale and translation are tried
OFFSET_STEPS = 400  # coarse time offsets tried
MIN_TURNING = np.radians(0.2)  # per step: less tells nothing of time


@dataclass(frozen=True, eq=False)
class Matches:
    """Corresponding poses: rows of the stream's set, and the reference's poses beside them."""

    stream: Poses  # [M]
    reference: Poses  # [M]
    by: str
    time_offset: float | None = None  # s: reference stamp = stream stamp + offset
    unmatched: tuple[str, ...] = ()  # poses of the stream that fit none of the reference's

    def __len__(self) -> int:
        return len(self.stream)


def match_poses(stream: Poses, reference: Poses, by: MatchBy = "auto") -> Matches:
    """Corresponding poses of two sets.

    Args:
        by: ``auto`` tries names, then stamps, then shape, and takes the first that finds enough.

    Raises:
        AlignmentError: fewer than `MIN_MATCHES` correspond.
    """
    methods = {"name": match_by_name, "stamp": match_by_stamp, "shape": match_by_shape}
    reasons = []
    for name in methods if by == "auto" else (by,):
        matches, reason = methods[name](stream, reference)
        if matches is not None and len(matches) >= MIN_MATCHES:
            return matches
        reasons.append(f"by {name}: {reason or 'too few'}")
    raise AlignmentError(
        f"poses of '{stream.source}' ({len(stream)}) and '{reference.source}' ({len(reference)}) don't correspond: "
        f"{'; '.join(reasons)}. Give both the images' names, or stamps, or poses of the same motion",
        code="alignment.unmatched",
    )


def match_by_name(stream: Poses, reference: Poses) -> tuple[Matches | None, str]:
    """Poses of the same name."""
    rows = {name: row for row, name in enumerate(reference.names)}
    common = [(row, rows[name]) for row, name in enumerate(stream.names) if name in rows]
    if len(common) < MIN_MATCHES:
        return None, f"{len(common)} names in common"
    return Matches(stream.subset([a for a, _ in common]), reference.subset([b for _, b in common]), "name"), ""


def match_by_stamp(stream: Poses, reference: Poses) -> tuple[Matches | None, str]:
    """Poses at the same time, the reference's interpolated; the clocks may differ by a constant offset.

    The offset is where the turning between successive views agrees: its angle is the same in any two frames, whatever
    their scale, and for any body fixed to the camera.
    """
    if stream.stamps is None or reference.stamps is None:
        return None, "no stamps on one side"
    order = np.argsort(stream.stamps, kind="stable")
    stream = stream.subset(order)
    assert stream.stamps is not None
    turning = angles(stream.rotations[:-1], stream.rotations[1:])
    if len(turning) < MIN_MATCHES or np.median(turning) < MIN_TURNING:
        return None, "too little turning to tell the offset of the clocks"
    offset = _best_offset(stream, reference, turning)
    if offset is None:
        return None, "at no offset of the clocks do the two move alike"
    poses, within = reference.at(stream.stamps + offset)
    rows = np.flatnonzero(within)
    if len(rows) < MIN_MATCHES:
        return None, f"{len(rows)} stamps in common"
    matched = stream.subset(rows)
    assert matched.stamps is not None
    beside = Poses(matched.names, poses[rows], matched.stamps + offset, reference.source)
    return Matches(matched, beside, "stamp", offset), ""


def _best_offset(stream: Poses, reference: Poses, turning: Array) -> float | None:
    assert stream.stamps is not None
    assert reference.stamps is not None
    first, last = float(reference.stamps.min()), float(reference.stamps.max())
    span = float(stream.stamps[-1] - stream.stamps[0])
    # At least half of the shorter recording overlaps.
    slack = 0.5 * min(span, last - first)
    low, high = first - float(stream.stamps[0]) - slack, last - float(stream.stamps[-1]) + slack
    low, high = min(low, high), max(low, high)
    candidates = np.unique(np.concatenate([np.linspace(low, high, OFFSET_STEPS), [0.0] if low <= 0 <= high else []]))
    step = (high - low) / OFFSET_STEPS
    best, least = None, np.inf
    while True:
        for offset in candidates:
            cost = _turning_difference(stream, reference, turning, float(offset))
            if cost < least:
                best, least = float(offset), cost
        if best is None or least > 0.5 * float(np.median(turning)):
            return None
        if step < 1e-5:
            return best
        step /= 5
        candidates = best + step * np.arange(-6, 7)


def _turning_difference(stream: Poses, reference: Poses, turning: Array, offset: float) -> float:
    """Median difference of the angles between successive views, infinite where too few overlap."""
    assert stream.stamps is not None
    poses, within = reference.at(stream.stamps + offset)
    both = within[:-1] & within[1:]
    if both.sum() < max(MIN_MATCHES, len(both) // 3):
        return np.inf
    other = angles(poses[:-1, :3, :3], poses[1:, :3, :3])
    difference = np.abs(other - turning)[both]
    # The mean of the better three quarters: smooth in the offset, and blind to a fifth of wrong poses (two steps each).
    return float(np.sort(difference)[: max(1, int(0.6 * len(difference)))].mean())


def match_by_shape(stream: Poses, reference: Poses) -> tuple[Matches | None, str]:
    """Poses of the same images without a common name or order: every pair votes for a turn between the two frames.

    For corresponding cameras ``R_reference R_streamᵀ`` is the turn between the frames, the same for all; wrong pairs
    scatter. Among the pairs that agree, two give scale and translation, and the ones that most others confirm count.
    """
    a, b = _thinned(stream), _thinned(reference)
    turns = np.einsum("jkl,iml->ijkm", b.rotations, a.rotations).reshape(-1, 3, 3)
    rows_a, rows_b = np.divmod(np.arange(len(turns)), len(b))
    quats = Rotation.from_matrix(turns).as_quat().astype(np.float32)
    best: list[tuple[int, int]] = []
    near = np.float32(np.cos(SAME_TURN / 2))
    agreeing = np.concatenate(
        [(np.abs(quats[i : i + 500] @ quats.T) > near).sum(axis=1) for i in range(0, len(quats), 500)]
    )
    for candidate in np.argsort(-agreeing)[:20]:
        together = np.flatnonzero(np.abs(quats @ quats[candidate]) > near)
        pairs = _same_positions(a, b, rows_a[together], rows_b[together], turns[candidate])
        if len(pairs) > len(best):
            best = pairs
    if len(best) < max(MIN_MATCHES, min(len(a), len(b)) // 4):
        return None, f"{len(best)} poses of the same shape"
    rows = [i for i, _ in best]
    unmatched = tuple(name for row, name in enumerate(a.names) if row not in rows)
    return Matches(a.subset(rows), b.subset([j for _, j in best]), "shape", None, unmatched), ""


def _same_positions(
    a: Poses, b: Poses, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64], turn: Array
) -> list[tuple[int, int]]:
    """The largest one-to-one set of pairs that one scale and translation brings together."""
    turned, target = a.positions[rows_a] @ turn.T, b.positions[rows_b]
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(len(rows_a), 1)
    usable = np.flatnonzero((rows_a[first] != rows_a[second]) & (rows_b[first] != rows_b[second]))
    if len(usable) > MAX_PAIRS:
        usable = rng.choice(usable, MAX_PAIRS, replace=False)
    extent = float(np.linalg.norm(np.ptp(b.positions, axis=0)))
    best: list[tuple[int, int]] = []
    for i, k in zip(first[usable], second[usable], strict=True):
        length = float(np.linalg.norm(turned[k] - turned[i]))
        if length < 1e-9:
            continue
        scale = float(np.linalg.norm(target[k] - target[i])) / length
        distance = np.linalg.norm(scale * (turned - turned[i]) + target[i] - target, axis=1)
        if (distance < SAME_POSITION * extent).sum() <= len(best):
            continue
        pairs, used_a, used_b = [], set(), set()
        for row in np.argsort(distance):
            if distance[row] >= SAME_POSITION * extent:
                break
            if rows_a[row] not in used_a and rows_b[row] not in used_b:
                used_a.add(rows_a[row])
                used_b.add(rows_b[row])
                pairs.append((int(rows_a[row]), int(rows_b[row])))
        if len(pairs) > len(best):
            best = pairs
    return sorted(best)


def _thinned(poses: Poses) -> Poses:
    if len(poses) <= MAX_VOTERS:
        return poses
    return poses.subset(np.unique(np.linspace(0, len(poses) - 1, MAX_VOTERS).astype(int)))


def angles(first: Array, second: Array) -> Array:
    """Angle [N] rad between rotations [N, 3, 3] each."""
    trace = np.einsum("nij,nij->n", first, second)
    # Of nearly equal rotations the chord is exact where the cosine isn't.
    chord = np.linalg.norm(first - second, axis=(1, 2)) / np.sqrt(8.0)
    return np.asarray(
        np.where(trace > 2.0, 2 * np.arcsin(np.clip(chord, 0, 1)), np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    )
