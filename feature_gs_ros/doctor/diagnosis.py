"""The whole examination of a stream: sightings of the map in its images, explanations tried, findings named."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.arm_mask import arm_findings
from feature_gs_ros.doctor.conventions import convention_explanations, with_units
from feature_gs_ros.doctor.coverage import coverage_findings, in_view
from feature_gs_ros.doctor.evidence import TOLERANCE, VIEWS, Evidence
from feature_gs_ros.doctor.explanations import PARAMETER_COST, Explanation
from feature_gs_ros.doctor.findings import Finding, ranked
from feature_gs_ros.doctor.images import (
    FLIPPED,
    blank_findings,
    color_findings,
    exposure_findings,
    image_findings,
    mirrored_explanations,
    turned_explanations,
    value_findings,
)
from feature_gs_ros.doctor.intrinsics import intrinsics_explanations, stretched_cameras, swapped_explanations
from feature_gs_ros.doctor.quick import RECOGNISABLE, lies_over
from feature_gs_ros.doctor.scale import (
    alignment_explanation,
    flange_explanation,
    scale_explanation,
    unit_explanations,
    wrong_views,
)
from feature_gs_ros.doctor.timing import (
    clock_explanation,
    nearest_frames,
    rolling_shutter_explanation,
    shift_explanations,
    stamp_findings,
)
from feature_gs_ros.doctor.without_map import pair_findings
from feature_gs_ros.frames.features import MapFeatures, Matches2D3D, map_features, match_features
from feature_gs_ros.frames.relocalise import similarities_by_pairs, solved_poses, surrounding_features
from feature_gs_ros.frames.reprojection import PosedCamera, pose_from_matches, posed_cameras, residuals, support
from feature_gs_ros.frames.umeyama import Array
from feature_gs_ros.io.streams.registry import Stream

GAIN = 0.08  # of its support by which an explanation must beat the stream as given
MIN_PIXELS, MOST = 1.0, 0.8  # of the matched image, and of what it shows: smaller mistakes don't matter
SIGMAS = 3.0  # of what noise of the poses makes fitted parameters move the images
MIN_PER_VIEW = 5.0  # matches explained per view: less says nothing
MIN_EXPLAINED = 0.12  # of the matches: what a stream as given must account for to be believed without trying others
SIMPLER, SIMPLER_EACH = 0.03, 0.005  # of the support that a simpler explanation may lack, and per parameter less
MIN_CLEAR, UNEXPLAINED = 15.0, 3.0  # matches per view of own poses, and times those of the poses, that are a doubt
MIN_WRONG = 8.0  # matches that its own pose must explain for one view's to be called wrong
MIN_SOLVED = 0.2  # of a view's matches that its own pose must explain: a tenth agree by chance
SETTLED = 0.9  # of the support that the views' own poses have: an explanation that has so much is the right one
TRIED_VIEWS = 2  # rendered by an explanation whose cameras see other parts of the map
MIN_FOUND = 3  # views whose pose is found anywhere in the map
MAX_TRIED = 8  # explanations rendered
MIN_IN_VIEW = 0.25  # of the image's parts in which the map must be
WRONG_METRES, WRONG_DEGREES, WRONG_TIMES = 0.015, 1.5, 4.0  # beyond which one view's pose is wrong beside the others
OWN_TOLERANCE = 6.0  # px of the matched image: mildly noisy poses are within
MIN_OWN = 0.5  # of what the views' own poses account for: with less, poses are off view by view
MAX_UNCLEAR = 6  # views whose surroundings are rendered, too
STRANGE = 0.1  # of the usual view's support: an image with less shows something else
MOST_WRONG = 0.6  # of the views: if more are wrong, all are


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found, and the figures behind it."""

    source: str
    findings: tuple[Finding, ...]
    views: int  # looked at
    frames: int  # in all
    supported: float  # matches per view that the stream as given explains; NaN without a map
    best: float  # the same by the best explanation
    seconds: float

    @property
    def is_good(self) -> bool:
        """Nothing but notes."""
        return all(finding.severity == "note" for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        return {
            "stream": self.source,
            "good": self.is_good,
            "findings": [finding.as_json() for finding in self.findings],
            "views": self.views,
            "frames": self.frames,
            "matches_per_view": self.supported,
            "matches_per_view_at_best": self.best,
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["nothing is wrong that can be seen"]
        figures = f"{self.views} of {self.frames} frames looked at in {self.seconds:.1f} s"
        if np.isfinite(self.supported):
            figures += f"; {self.supported:.0f} points of the map per view are where they should be"
            figures += f" ({self.best:.0f} by the best explanation)" if self.best > 1.05 * self.supported else ""
        return "\n".join([*lines, figures])


def diagnose(
    stream: Stream, gaussians: GaussianMap | None = None, splat_from_map: Sim3 | None = None, views: int = VIEWS
) -> Diagnosis:
    """Examine a stream.

    Args:
        gaussians: the map that it should show; without one only what stamps, poses and images say alone is found.
        splat_from_map: identity by default.
        views: images looked at, spread over the stream.

    Raises:
        StreamError: the stream is damaged.
    """
    start = time.perf_counter()
    evidence = Evidence.of(stream, gaussians, splat_from_map or Sim3.identity(), views)
    findings = [*stamp_findings(evidence), *image_findings(evidence), *arm_findings(evidence)]
    supported = best = float("nan")
    if gaussians is not None and evidence.frames:
        by_map, supported, best = _examine_against_map(evidence)
        findings = _merged(by_map, findings)
    elif evidence.frames:
        findings = _merged(pair_findings(evidence), findings)
    return Diagnosis(
        stream.source,
        ranked(findings),
        len(evidence.frames),
        len(evidence.poses),
        supported,
        best,
        time.perf_counter() - start,
    )


def _merged(by_map: list[Finding], alone: list[Finding]) -> list[Finding]:
    """What the map says first; of single wrong poses one finding."""
    codes = {finding.code for finding in by_map}
    guessed = {name for finding in alone if finding.code == "poses.gap" for name in finding.frames}
    by_map = [finding for finding in by_map if not (finding.frames and guessed.issuperset(finding.frames))]
    if "poses.frozen" in {finding.code for finding in alone}:
        by_map = [finding for finding in by_map if finding.code not in ("poses.jump", "poses.wrong", "time.offset")]
    if "poses.jump" in codes or "poses.shifted" in codes:
        alone = [finding for finding in alone if finding.code != "poses.jump"]
    return by_map + alone


@dataclass(frozen=True, eq=False)
class _Judged:
    explanation: Explanation
    per_view: Array  # support of each view [V]
    total: float  # of all views, less what fitted parameters cost

    @staticmethod
    def of(evidence: Evidence, explanation: Explanation, matches: Matches2D3D) -> _Judged:
        per_view = evidence.supports(explanation.cameras, explanation.matches or matches)
        total = float(per_view.sum())
        return _Judged(explanation, per_view, total * (1 - PARAMETER_COST * explanation.parameters))


def _examine_against_map(evidence: Evidence) -> tuple[list[Finding], float, float]:
    """Findings, and matches per view explained as given and at best."""
    as_given = Explanation("good", evidence.cameras, "", "")
    matches = evidence.match(evidence.known)
    given = _Judged.of(evidence, as_given, matches)
    judged = [given]
    count = len(evidence.frames)
    believed = given.total >= MIN_PER_VIEW * count and given.total >= MIN_EXPLAINED * len(matches)
    starts: list[Sim3] = []
    if not believed:
        others, matches, starts = _other_sightings(evidence, matches)
        given = _Judged.of(evidence, as_given, matches)
        judged = [given, *(_Judged.of(evidence, other, matches) for other in others)]
    if max(judged, key=lambda entry: entry.total) is given or not _is_settled(evidence, judged, matches):
        judged += [_Judged.of(evidence, other, matches) for other in _continuous(evidence, matches, starts)]
    best = max(judged, key=lambda entry: entry.total)
    chosen = _chosen(judged, given, best, matches)
    own = _own_poses(evidence, chosen, matches)
    if best.total < MIN_PER_VIEW * count and not own.are_known:
        if _lies_over_the_map(evidence):
            return value_findings(evidence), given.total / count, best.total / count
        exposed = [*blank_findings(evidence), *exposure_findings(evidence)]
        return exposed or [_another_scene(evidence, best)], given.total / count, best.total / count
    gain = (chosen.total - given.total) / max(best.total, 1e-9)
    findings = [] if chosen is given else [_named(chosen, given, gain)]
    accounts_for_little = own.explained < MIN_OWN and own.explained - own.of_given < MIN_OWN / 2
    if chosen is not given and accounts_for_little and chosen.explanation.code not in FLIPPED:
        own = _own_poses(evidence, given, matches)
        single = _single_views(evidence, given, own, [])
        findings, chosen = (single, given) if single else (findings, chosen)
    else:
        findings += _single_views(evidence, chosen, own, findings)
    cameras = chosen.explanation.cameras
    findings += color_findings(evidence, cameras, chosen.explanation.code in FLIPPED)
    findings += blank_findings(evidence)
    findings += _unrecognised_views(evidence, chosen, own, findings)
    if not findings and best.total < MIN_PER_VIEW * count:
        findings = exposure_findings(evidence) or [_another_scene(evidence, best)]
    own_mean, mean = float(own.supports.mean()), float(own.by_explanation.mean())
    if not findings and not believed and own_mean >= max(MIN_CLEAR, UNEXPLAINED * mean):
        findings = [_unexplained(mean, own_mean)]
    if chosen is given:
        findings += coverage_findings(evidence)
    return findings, given.total / count, best.total / count


def _chosen(judged: Sequence[_Judged], given: _Judged, best: _Judged, matches: Matches2D3D) -> _Judged:
    """The simplest good explanation, or the stream as given where nothing is clearly better."""
    chosen = _simplest(judged, best)
    gain = (chosen.total - given.total) / max(best.total, 1e-9)
    # Of few views, fitted parameters also explain noise of the poses.
    per_view = chosen.explanation.parameters / len(given.per_view)
    least = max(MIN_PIXELS, SIGMAS * np.sqrt(per_view) * _view_noise(given, matches))
    is_given = chosen is given or gain < GAIN * (1 + per_view) or _moved_pixels(chosen, given, matches) < least
    return given if is_given else chosen


def _view_noise(judged: _Judged, matches: Matches2D3D) -> float:
    """How far whole views are off by an explanation, rms in pixels of the matched image."""
    seen = judged.explanation.matches or matches
    off = residuals(judged.explanation.cameras, seen)
    near = np.linalg.norm(off, axis=1) < OWN_TOLERANCE
    shifts = [off[rows][near[rows]].mean(axis=0) for _, rows in seen.by_frame if near[rows].sum() >= MIN_PER_VIEW]
    return float(np.sqrt((np.array(shifts) ** 2).sum(axis=1).mean())) if shifts else 0.0


def _is_settled(evidence: Evidence, judged: Sequence[_Judged], matches: Matches2D3D) -> bool:
    """Whether an explanation without fitted parameters accounts for nearly all that each view's own pose does."""
    best = max(judged, key=lambda entry: entry.total)
    solved = evidence.solved(best.explanation.matches or matches)
    if best.total < MIN_PER_VIEW * len(evidence.frames) or len(solved) < 0.6 * len(evidence.frames):
        return False
    cameras = [
        replace(posed, camera_from_splat=solved.get(index, posed.camera_from_splat))
        for index, posed in enumerate(best.explanation.cameras)
    ]
    ceiling = float(evidence.supports(cameras, best.explanation.matches or matches).sum())
    return best.total >= SETTLED * ceiling


def _moved_pixels(chosen: _Judged, given: _Judged, matches: Matches2D3D) -> float:
    """How far an explanation moves what the images show, in pixels of the matched image: most of it less than that."""
    if chosen.explanation.matches is not None:
        return float("inf")
    moved = residuals(chosen.explanation.cameras, matches) - residuals(given.explanation.cameras, matches)
    explained = support(chosen.explanation.cameras, matches, TOLERANCE) > 0
    return float(np.quantile(np.linalg.norm(moved[explained], axis=1), MOST)) if explained.any() else 0.0


def _simplest(judged: Sequence[_Judged], best: _Judged) -> _Judged:
    """Of the explanations that are nearly as good as the best, the one with the fewest fitted parameters."""

    def lack(entry: _Judged) -> float:
        more = best.explanation.parameters - entry.explanation.parameters
        return SIMPLER + SIMPLER_EACH * max(0, more)

    nearly = [entry for entry in judged if entry.total >= (1 - lack(entry)) * best.total]
    fewest = min(entry.explanation.parameters for entry in nearly)
    return max((entry for entry in nearly if entry.explanation.parameters == fewest), key=lambda entry: entry.total)


def _continuous(evidence: Evidence, matches: Matches2D3D, starts: Sequence[Sim3]) -> list[Explanation]:
    """Explanations that need no other rendering, and those with fitted parameters."""
    if len(matches) < 2 * MIN_PER_VIEW:
        return []
    solved = evidence.solved(matches)
    flange = flange_explanation(evidence, matches, solved)
    starts = [*starts, *similarities_by_pairs(evidence.frames, solved)]
    return [
        *shift_explanations(evidence),
        *swapped_explanations(evidence),
        *intrinsics_explanations(evidence, matches),
        scale_explanation(evidence, matches),
        clock_explanation(evidence, matches),
        alignment_explanation(evidence, matches, starts),
        *([] if flange is None else [flange]),
        rolling_shutter_explanation(evidence, matches),
    ]


def _other_sightings(evidence: Evidence, matches: Matches2D3D) -> tuple[list[Explanation], Matches2D3D, list[Sim3]]:
    """Explanations without fitted parameters, all matches so far, and alignments found by searching the map.

    Flipped images are tried, then conventions with the map rendered where they see it; where none shows the map either,
    stretched images, and then the whole map is searched.
    """
    mirrored = mirrored_explanations(evidence, evidence.match(evidence.known, evidence.mirrored_features))
    if max(_Judged.of(evidence, other, matches).total for other in mirrored) >= MIN_PER_VIEW * len(evidence.frames):
        return mirrored, matches, []
    others = [*turned_explanations(evidence), *convention_explanations(evidence), *unit_explanations(evidence)]
    for listed in (others, with_units(evidence)):
        found = _tried(evidence, listed, matches)
        if found is not None:
            return listed, found, []
        if _solvable(evidence, matches):
            return others, matches, []  # without the conventions' own, which are all wrong
    for cameras in stretched_cameras(evidence):
        parts = _rendered_matches(evidence, cameras, range(len(evidence.frames)))
        if sum(evidence.supports(cameras, part).sum() for part in parts) >= MIN_PER_VIEW * len(evidence.frames):
            return others, Matches2D3D.joined([matches, *parts]), []
    anywhere = _sightings_anywhere(evidence)
    return others, matches if anywhere is None else anywhere, []


def _tried(evidence: Evidence, listed: Sequence[Explanation], matches: Matches2D3D) -> Matches2D3D | None:
    """Matches with the map rendered where explanations see it; None where none of them is good."""
    tried = sorted(
        (
            (in_view(evidence, other.cameras[:: max(1, len(other.cameras) // TRIED_VIEWS)]), k)
            for k, other in enumerate(listed)
        ),
        reverse=True,
    )
    views = np.unique(np.linspace(0, len(evidence.frames) - 1, TRIED_VIEWS + 2).astype(int)[1:-1])
    parts = [matches]
    for filled, k in tried[:MAX_TRIED]:
        parts += _rendered_matches(evidence, listed[k].cameras, views) if filled >= MIN_IN_VIEW else []
    found = Matches2D3D.joined(parts)
    winner = max(listed, key=lambda other: _Judged.of(evidence, other, found).total)
    if _Judged.of(evidence, winner, found).total < MIN_PER_VIEW * len(views):
        return None
    known = MapFeatures.pooled([map_features(evidence.render(posed)) for posed in winner.cameras])
    return Matches2D3D.joined([evidence.match(known), found])


def _rendered_matches(evidence: Evidence, cameras: Sequence[PosedCamera], views: Iterable[int]) -> list[Matches2D3D]:
    """Matches of some views with the map rendered from their cameras."""
    return [
        match_features(int(index), evidence.features[index], map_features(evidence.render(cameras[index])))
        for index in views
    ]


def _sightings_anywhere(evidence: Evidence) -> Matches2D3D | None:
    """Matches with the map rendered from all around, then from where each view is by these; None where few have any."""
    assert evidence.gaussians is not None
    around = evidence.match(surrounding_features(evidence.gaussians, evidence.frames[0].camera))
    solved = solved_poses(evidence.frames, around)
    own = [PosedCamera(evidence.frames[index].camera, pose) for index, pose in solved.items()]
    if len(own) < MIN_FOUND:
        return None
    return evidence.match(MapFeatures.pooled([map_features(evidence.render(posed)) for posed in own]))


def _solvable(evidence: Evidence, matches: Matches2D3D) -> bool:
    """Whether most views have a pose of their own by these matches, so that the map needn't be searched."""
    solved = evidence.solved(matches)
    own = [PosedCamera(evidence.cameras[k].camera, pose) for k, pose in solved.items()]
    if len(own) < 0.6 * len(evidence.frames):
        return False
    cameras = list(evidence.cameras)
    for index, posed in zip(solved, own, strict=True):
        cameras[index] = posed
    counts = np.bincount(matches.frames, minlength=len(cameras))
    explained = evidence.supports(cameras, matches)
    return bool((explained >= np.maximum(MIN_PER_VIEW, MIN_SOLVED * counts)).mean() >= 0.6)


def _named(chosen: _Judged, given: _Judged, gain: float) -> Finding:
    explanation = chosen.explanation
    severity = "error" if given.total < 0.6 * chosen.total else "warning"
    return Finding(
        explanation.code,
        "error" if severity == "error" else "warning",
        float(np.clip(0.5 + gain, 0, 0.99)),
        explanation.what,
        explanation.advice,
        (),
        {**explanation.values, "gain": gain},
    )


@dataclass(frozen=True, eq=False)
class _OwnPoses:
    """Poses that the views' own matches ask for, beside those of an explanation."""

    poses: Mapping[int, Array]  # {view: camera_from_splat}, where the matches are clear
    supports: Array  # of each view by them [V]
    by_explanation: Array  # by the explanation [V]
    count: int  # views in all
    explained: float  # of what they account for, the fraction that the explanation does; of the median view
    of_given: float  # the same of the stream as given

    @property
    def are_known(self) -> bool:
        """Of most views."""
        return len(self.poses) >= max(2, 0.6 * self.count)


def _own_poses(evidence: Evidence, chosen: _Judged, matches: Matches2D3D) -> _OwnPoses:
    cameras, seen = chosen.explanation.cameras, chosen.explanation.matches or matches
    solved, clear = _clear_poses(evidence, cameras, seen)
    unclear = [index for index in range(len(cameras)) if index not in clear]
    if len(clear) >= MIN_FOUND and 0 < len(unclear) <= MAX_UNCLEAR and chosen.explanation.matches is None:
        seen = _with_lost_views(evidence, seen, unclear)
        solved, clear = _clear_poses(evidence, cameras, seen)
    own = [replace(posed, camera_from_splat=solved.get(k, posed.camera_from_splat)) for k, posed in enumerate(cameras)]
    rows = sorted(clear)
    reached = np.maximum(evidence.supports(own, seen, OWN_TOLERANCE)[rows], 1e-9)
    explained = evidence.supports(cameras, seen, OWN_TOLERANCE)[rows] / reached
    of_given = evidence.supports(evidence.cameras, seen, OWN_TOLERANCE)[rows] / reached
    known = len(clear) >= max(2, 0.6 * len(cameras))
    return _OwnPoses(
        clear,
        evidence.supports(own, seen),
        evidence.supports(cameras, seen),
        len(cameras),
        float(np.median(explained)) if known else 1.0,
        float(np.median(of_given)) if known else 1.0,
    )


def _clear_poses(
    evidence: Evidence, cameras: Sequence[PosedCamera], seen: Matches2D3D
) -> tuple[dict[int, Array], dict[int, Array]]:
    """Each view's own pose, and those that enough of its matches ask for."""
    frames = [replace(frame, camera=posed.camera) for frame, posed in zip(evidence.frames, cameras, strict=True)]
    same = all(posed.camera is frame.camera for frame, posed in zip(evidence.frames, cameras, strict=True))
    solved = evidence.solved(seen) if same else solved_poses(frames, seen)
    own = [replace(posed, camera_from_splat=solved.get(k, posed.camera_from_splat)) for k, posed in enumerate(cameras)]
    supports = evidence.supports(own, seen)
    least = np.maximum(MIN_PER_VIEW, MIN_SOLVED * np.bincount(seen.frames, minlength=len(frames)))
    return solved, {index: pose for index, pose in solved.items() if supports[index] >= least[index]}


def _with_lost_views(evidence: Evidence, seen: Matches2D3D, unclear: Sequence[int]) -> Matches2D3D:
    """Other matches for views whose own aren't clear: with what the frames about them should see, or anywhere."""
    assert evidence.gaussians is not None
    around = None
    for index in unclear:
        found = _matches_around(evidence, index)
        if not _has_own_pose(evidence, index, found) and len(evidence.features[index].pixels) >= RECOGNISABLE:
            if around is None:
                around = surrounding_features(evidence.gaussians, evidence.frames[0].camera)
            found = match_features(index, evidence.features[index], around)
        if _has_own_pose(evidence, index, found):
            seen = Matches2D3D.joined([seen.of(seen.frames != index), found])
    return seen


def _has_own_pose(evidence: Evidence, index: int, matches: Matches2D3D) -> bool:
    """Whether one view's matches clearly ask for one pose."""
    camera = evidence.frames[index].camera
    solved = pose_from_matches(camera, matches)
    if solved is None:
        return False
    alone = replace(matches, frames=np.zeros_like(matches.frames))
    return float(support([PosedCamera(camera, solved[0])], alone).sum()) >= max(MIN_WRONG, MIN_SOLVED * len(matches))


def _matches_around(evidence: Evidence, index: int) -> Matches2D3D:
    """Of a view with the map rendered from the poses of the frames about its own."""
    rows = [evidence.rows[index] + step for step in (-2, -1, 1, 2)]
    frames = [evidence.all_frames[row] for row in rows if 0 <= row < len(evidence.all_frames)]
    known = [map_features(evidence.render(posed)) for posed in posed_cameras(frames, evidence.splat_from_map)]
    return match_features(index, evidence.features[index], MapFeatures.pooled(known))


def _single_views(evidence: Evidence, chosen: _Judged, own: _OwnPoses, found: Sequence[Finding]) -> list[Finding]:
    """Views whose pose is wrong beside the others': another frame's, or simply off; or most of them, each its way."""
    if found and found[0].code.startswith(("intrinsics.", "images.")) and own.explained >= MIN_OWN:
        return []
    off, usual = wrong_views(evidence, chosen.explanation.cameras, own.poses)
    wrong = {
        index: (metres, degrees)
        for index, (metres, degrees) in off.items()
        if (metres > max(WRONG_METRES, WRONG_TIMES * usual[0]) or degrees > max(WRONG_DEGREES, WRONG_TIMES * usual[1]))
        and own.supports[index] > max(MIN_WRONG, 1.5 * own.by_explanation[index])
    }
    if own.explained < MIN_OWN:
        wrong = {k: off[k] for k in off if own.supports[k] > 1.5 * own.by_explanation[k]} or off
    if not wrong:
        return []
    if found and found[0].code in ("time.offset", "poses.shifted"):
        offsets = nearest_frames(evidence, {index: own.poses[index] for index in wrong})
        if sum(offset == 0 for offset in offsets.values()) >= MOST_WRONG * len(wrong):
            return []  # these are right as they are given: what is named begins later
    return [_on_other_poses(evidence, wrong, own) or _off_poses(evidence, wrong, own)]


def _on_other_poses(evidence: Evidence, wrong: Mapping[int, tuple[float, float]], own: _OwnPoses) -> Finding | None:
    """Wrong views that are where other frames' poses are."""
    offsets = nearest_frames(evidence, {index: own.poses[index] for index in wrong})
    moved = [offset for offset in offsets.values() if offset]
    if len(moved) < 0.6 * len(wrong):
        return None
    names = tuple(evidence.frames[index].name for index in sorted(offsets))
    usual, count = Counter(moved).most_common(1)[0]
    is_shift = count >= 0.6 * len(moved) and (len(moved) > 1 or abs(usual) == 1)
    how = f", typically of the frame {abs(usual)} {'before' if usual > 0 else 'after'} it" if is_shift else ""
    return Finding(
        "poses.shifted" if is_shift else "poses.shuffled", "error", 0.9,
        f"{len(moved)} of {len(evidence.frames)} images looked at have the poses of other frames{how}",
        "Pair images and poses by stamp or name, not by their order", names,
        {"images": float(len(moved)), **({"frames": float(-usual)} if is_shift else {})},
    )  # fmt: skip


def _off_poses(evidence: Evidence, wrong: Mapping[int, tuple[float, float]], own: _OwnPoses) -> Finding:
    """Poses that are off, some by much or nearly all by a little."""
    names = tuple(evidence.frames[index].name for index in sorted(wrong))
    metres, degrees = (np.array(values) for values in zip(*wrong.values(), strict=True))
    if len(wrong) > MOST_WRONG * len(own.poses):
        return Finding(
            "poses.inaccurate", "error" if own.explained < MIN_OWN / 2 else "warning", 0.8,
            f"{len(wrong)} of {len(evidence.frames)} poses looked at are off, each in its own way, typically by "
            f"{1000 * np.median(metres):.0f} mm and {np.median(degrees):.1f}°",
            "Improve the localisation or calibrate the arm; poses a little off can be corrected by backproject "
            "--refine-poses", names,
            {"millimetres": float(1000 * np.median(metres)), "degrees": float(np.median(degrees))},
        )  # fmt: skip
    first = min(wrong)
    since = len(wrong) > 2 and len(wrong) >= 0.8 * sum(index >= first for index in own.poses)
    where = f", all from '{evidence.frames[first].name}' on" if since else ""
    return Finding(
        "poses.jump", "error", 0.9,
        f"{len(wrong)} of {len(evidence.frames)} poses looked at are wrong, by up to {metres.max():.3f} m and "
        f"{degrees.max():.1f}°{where}",
        "Leave these frames out (--skip), and check the localisation or tf publisher", names,
        {"metres": float(metres.max()), "degrees": float(degrees.max())},
    )  # fmt: skip


def _unrecognised_views(evidence: Evidence, chosen: _Judged, own: _OwnPoses, found: Sequence[Finding]) -> list[Finding]:
    """Images that show nothing of the map where others do: of another scene, or with something before the camera."""
    explained = {name for finding in found for name in finding.frames}
    if len(own.poses) < MIN_FOUND:
        return []
    usual = float(np.median([own.by_explanation[index] for index in own.poses]))
    strange = [
        index
        for index, frame in enumerate(evidence.frames)
        if index not in own.poses
        and frame.name not in explained
        and own.by_explanation[index] < min(MIN_PER_VIEW, STRANGE * usual)
        and len(evidence.features[index].pixels) >= RECOGNISABLE
        and _is_recognisable(evidence, index, chosen.explanation.cameras[index])
    ]
    if not strange:
        return []
    names = tuple(evidence.frames[index].name for index in strange)
    return [
        Finding(
            "scene.other", "error" if len(strange) > 0.25 * len(evidence.frames) else "warning", 0.75,
            f"{len(strange)} of {len(evidence.frames)} images looked at show nothing of the map where the others do",
            "Of another scene, or something stands before the camera: leave these frames out (--skip)", names,
            {"images": float(len(strange))},
        )
    ]  # fmt: skip


def _is_recognisable(evidence: Evidence, index: int, posed: PosedCamera) -> bool:
    """Whether the map has much to recognise where a camera looks, and the image doesn't lie over it as a whole."""
    rendered = evidence.render(posed)
    shows = rendered.covered >= 0.5 and len(map_features(rendered).points) >= RECOGNISABLE
    return shows and not lies_over(evidence.images[index], posed.camera, rendered)


def _lies_over_the_map(evidence: Evidence) -> bool:
    """Whether whole images lie best over the rendered ones where they are: no points match in a blurred map."""
    views = zip(evidence.images, evidence.cameras, evidence.rendered, strict=True)
    return float(np.mean([lies_over(image, posed.camera, rendered) for image, posed, rendered in views])) >= 0.5


def _unexplained(explained: float, own: float) -> Finding:
    return Finding(
        "poses.inaccurate", "warning", 0.6,
        f"the poses account for {explained:.0f} points of the map per image where the images' own would for {own:.0f}, "
        "and no usual mistake explains it: they are probably off, each in its own way",
        "Improve the localisation or calibrate the arm; align and look: feature-gs align images --picture", (),
        {"matches_per_view": explained, "matches_per_view_of_own": own},
    )  # fmt: skip


def _another_scene(evidence: Evidence, best: _Judged) -> Finding:
    covered = float(np.mean([view.covered for view in evidence.rendered]))
    where = "" if covered > 0.02 else f"; the cameras see the map in {100 * covered:.1f}% of their pixels"
    return Finding(
        "scene.other", "error", 0.9 if best.total < 0.5 * MIN_PER_VIEW * len(evidence.frames) else 0.7,
        f"the images show nothing of the map by any convention tried{where}: another scene, or one that has changed",
        "Check that map and stream belong together; feature-gs align images searches further", (),
        {"matches_per_view": best.total / len(evidence.frames)},
    )  # fmt: skip
