"""The whole examination of a stream: sightings of the map in its images, explanations tried, findings named."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.arm_mask import arm_findings
from feature_gs_ros.doctor.conventions import convention_explanations
from feature_gs_ros.doctor.coverage import coverage_findings
from feature_gs_ros.doctor.evidence import TOLERANCE, VIEWS, Evidence
from feature_gs_ros.doctor.explanations import PARAMETER_COST, Explanation
from feature_gs_ros.doctor.findings import Finding, ranked
from feature_gs_ros.doctor.images import (
    color_findings,
    exposure_findings,
    image_findings,
    mirrored_explanations,
    turned_explanations,
)
from feature_gs_ros.doctor.intrinsics import intrinsics_explanations, swapped_explanations
from feature_gs_ros.doctor.quick import lies_over
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
from feature_gs_ros.frames.reprojection import PosedCamera, residuals, support
from feature_gs_ros.frames.umeyama import Array
from feature_gs_ros.io.streams.registry import Stream

GAIN = 0.08  # of its support by which an explanation must beat the stream as given
MIN_PIXELS, MOST = 1.0, 0.8  # of the matched image, and of what it shows: smaller mistakes don't matter
MIN_PER_VIEW = 5.0  # matches explained per view: less says nothing
MIN_EXPLAINED = 0.12  # of the matches: what a stream as given must account for to be believed without trying others
SIMPLER = 0.03  # of the support that a simpler explanation may lack beside the best one
MIN_SOLVED = 0.2  # of a view's matches that its own pose must explain: a tenth agree by chance
SETTLED = 0.9  # of the support that the views' own poses have: an explanation that has so much is the right one
TRIED_VIEWS = 2  # rendered by an explanation whose cameras see other parts of the map
MIN_FOUND = 3  # views whose pose is found anywhere in the map
MAX_TRIED = 8  # explanations rendered
MIN_IN_VIEW = 0.25  # of the image's parts in which the map must be
WRONG_METRES, WRONG_DEGREES, WRONG_TIMES = 0.015, 1.5, 4.0  # beyond which one view's pose is wrong beside the others


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
    if best.total < MIN_PER_VIEW * count:
        if _lies_over_the_map(evidence):
            return [], given.total / count, best.total / count
        exposed = exposure_findings(evidence)
        return exposed or [_another_scene(evidence, best)], given.total / count, best.total / count
    chosen = _simplest(judged, best)
    gain = (chosen.total - given.total) / max(best.total, 1e-9)
    if chosen is given or gain < GAIN or _moved_pixels(chosen, given, matches) < MIN_PIXELS:
        chosen = given
    findings = [] if chosen is given else [_named(chosen, given, gain)]
    findings += _single_views(evidence, chosen, matches, findings)
    cameras = chosen.explanation.cameras
    findings += color_findings(evidence, cameras, chosen.explanation.code == "images.mirrored")
    if chosen is given:
        findings += coverage_findings(evidence)
    return findings, given.total / count, best.total / count


def _is_settled(evidence: Evidence, judged: Sequence[_Judged], matches: Matches2D3D) -> bool:
    """Whether an explanation without fitted parameters accounts for nearly all that each view's own pose does."""
    best = max(judged, key=lambda entry: entry.total)
    solved = solved_poses(evidence.frames, best.explanation.matches or matches)
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
    nearly = [entry for entry in judged if entry.total >= (1 - SIMPLER) * best.total]
    fewest = min(entry.explanation.parameters for entry in nearly)
    return max((entry for entry in nearly if entry.explanation.parameters == fewest), key=lambda entry: entry.total)


def _continuous(evidence: Evidence, matches: Matches2D3D, starts: Sequence[Sim3]) -> list[Explanation]:
    """Explanations that need no other rendering, and those with fitted parameters."""
    if len(matches) < 2 * MIN_PER_VIEW:
        return []
    solved = solved_poses(evidence.frames, matches)
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
    the whole map is searched.
    """
    mirrored = mirrored_explanations(evidence, evidence.match(evidence.known, evidence.mirrored_features))
    if max(_Judged.of(evidence, other, matches).total for other in mirrored) >= MIN_PER_VIEW * len(evidence.frames):
        return mirrored, matches, []
    others = [*convention_explanations(evidence), *unit_explanations(evidence)]
    tried = sorted(((_in_view(evidence, other.cameras), k) for k, other in enumerate(others)), reverse=True)
    views = np.unique(np.linspace(0, len(evidence.frames) - 1, TRIED_VIEWS + 2).astype(int)[1:-1])
    parts = [matches]
    for in_view, k in tried[:MAX_TRIED]:
        for index in views if in_view >= MIN_IN_VIEW else ():
            known = map_features(evidence.render(others[k].cameras[index]))
            parts.append(match_features(int(index), evidence.features[index], known))
    found = Matches2D3D.joined(parts)
    others += turned_explanations(evidence, matches)
    winner = max(others, key=lambda other: _Judged.of(evidence, other, found).total)
    if _Judged.of(evidence, winner, found).total >= MIN_PER_VIEW * len(views):
        known = MapFeatures.pooled([map_features(evidence.render(posed)) for posed in winner.cameras])
        return others, Matches2D3D.joined([evidence.match(known), found]), []
    if _solvable(evidence, matches):
        return others, matches, []  # without the conventions' own, which are all wrong
    anywhere = _sightings_anywhere(evidence)
    return others, matches if anywhere is None else anywhere, []


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
    solved = solved_poses(evidence.frames, matches)
    own = [PosedCamera(evidence.cameras[k].camera, pose) for k, pose in solved.items()]
    if len(own) < 0.6 * len(evidence.frames):
        return False
    cameras = list(evidence.cameras)
    for index, posed in zip(solved, own, strict=True):
        cameras[index] = posed
    counts = np.bincount(matches.frames, minlength=len(cameras))
    explained = evidence.supports(cameras, matches)
    return bool((explained >= np.maximum(MIN_PER_VIEW, MIN_SOLVED * counts)).mean() >= 0.6)


def _in_view(evidence: Evidence, cameras: Sequence[PosedCamera]) -> float:
    """Fraction of the images' parts (8 × 6) that have opaque Gaussians in front, over a few cameras."""
    assert evidence.gaussians is not None
    opaque = evidence.gaussians.means[evidence.gaussians.opacities > 0.3].double().numpy()
    points = opaque[:: max(1, len(opaque) // 4000)]
    filled = []
    for posed in cameras[:: max(1, len(cameras) // TRIED_VIEWS)]:
        local = points @ posed.camera_from_splat[:3, :3].T + posed.camera_from_splat[:3, 3]
        local = local[local[:, 2] > 0.01]
        x = (local[:, 0] / local[:, 2] * posed.camera.fx + posed.camera.cx) / posed.camera.width * 8
        y = (local[:, 1] / local[:, 2] * posed.camera.fy + posed.camera.cy) / posed.camera.height * 6
        inside = (x >= 0) & (x < 8) & (y >= 0) & (y < 6)
        filled.append(len(np.unique(x[inside].astype(int) * 6 + y[inside].astype(int))) / 48)
    return float(np.mean(filled))


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


def _single_views(evidence: Evidence, chosen: _Judged, matches: Matches2D3D, found: Sequence[Finding]) -> list[Finding]:
    """Views whose pose is wrong beside the others': swapped with another frame's, or simply off."""
    if found and found[0].code.startswith(("intrinsics.", "images.")):
        return []  # solved poses would be off, too
    solved = solved_poses(evidence.frames, chosen.explanation.matches or matches)
    off, usual = wrong_views(evidence, chosen.explanation.cameras, solved)
    wrong = {
        index: metres
        for index, (metres, degrees) in off.items()
        if (metres > max(WRONG_METRES, WRONG_TIMES * usual) or degrees > max(WRONG_DEGREES, 5.0))
        and _explains_better(evidence, index, chosen, solved[index], matches)
    }
    if not wrong:
        return []
    names = tuple(evidence.frames[index].name for index in sorted(wrong))
    offsets = nearest_frames(evidence, {index: solved[index] for index in wrong})
    shifted = {index: offset for index, offset in offsets.items() if offset != 0}
    worst = max(wrong.values())
    if shifted and len(shifted) >= 0.6 * len(wrong):
        usual_shift = int(np.median(list(shifted.values())))
        return [
            Finding(
                "poses.shifted", "error", 0.9,
                f"{len(names)} of {len(evidence.frames)} images looked at are on the poses of other frames (typically "
                f"{usual_shift:+d})",
                "Pair images and poses by stamp or name, not by their order", names, {"frames": float(-usual_shift)},
            )
        ]  # fmt: skip
    return [
        Finding(
            "poses.jump", "error", 0.9,
            f"{len(names)} of {len(evidence.frames)} poses looked at are wrong, by up to {worst:.3f} m",
            "Leave these frames out (--skip), and check the localisation or tf publisher", names, {"metres": worst},
        )
    ]  # fmt: skip


def _explains_better(evidence: Evidence, index: int, chosen: _Judged, pose: Array, matches: Matches2D3D) -> bool:
    """Whether a view's own pose explains clearly more of its matches than the one that it has."""
    cameras = list(chosen.explanation.cameras)
    cameras[index] = replace(cameras[index], camera_from_splat=pose)
    own = evidence.supports(cameras, chosen.explanation.matches or matches)[index]
    return bool(own >= MIN_PER_VIEW and own > 1.5 * chosen.per_view[index])


def _lies_over_the_map(evidence: Evidence) -> bool:
    """Whether whole images lie best over the rendered ones where they are: no points match in a blurred map."""
    pairs = zip(evidence.images, evidence.rendered, strict=True)
    return float(np.mean([lies_over(image, rendered) for image, rendered in pairs])) >= 0.5


def _another_scene(evidence: Evidence, best: _Judged) -> Finding:
    covered = float(np.mean([view.covered for view in evidence.rendered]))
    where = "" if covered > 0.02 else f"; the cameras see the map in {100 * covered:.1f}% of their pixels"
    return Finding(
        "scene.other", "error", 0.9 if best.total < 0.5 * MIN_PER_VIEW * len(evidence.frames) else 0.7,
        f"the images show nothing of the map by any convention tried{where}: another scene, or one that has changed",
        "Check that map and stream belong together; feature-gs align images searches further", (),
        {"matches_per_view": best.total / len(evidence.frames)},
    )  # fmt: skip
