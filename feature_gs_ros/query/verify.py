"""The second look: what a prompt selects, cut out of images that the field kept, and judged as a whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.looks import Look
from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.base import ImageJudge, Judgement
from feature_gs_ros.query.objects import cluster
from feature_gs_ros.rasterizer import BackendChoice

MAX_CUTOUTS = 6  # judged for one object
MORE_CUTOUTS = 3  # of each further object
MAX_OBJECTS = 3  # that get a look of their own
MIN_SIZE = 0.2  # of the largest object's opacity, from which another gets a look of its own
MARGIN = 0.5  # of the object's longer side, around it in all
MIN_PIXELS = 12  # of the object's longer side in a look, from which it is judged
MIN_VISIBLE = 0.3  # fraction of the object's pixels that nothing hides
MIN_PROBABILITY = 0.03  # of the prompt, over all looks together
MIN_FRACTION = 0.2  # of the likeliest other word's probability, that it and its near-synonyms must have
MIN_AVERAGE = 0.1  # of the prompt's probability, on average over the looks, where it alone decides
MIN_KIN_FRACTION = 0.15  # of the likeliest near-synonym's probability
SILHOUETTE_SIDE = 128  # pixels of the longer side of the views in which the object's outline is found
OUTLINE = 0.3  # rendered weight from which a pixel shows the object
POINTS = 512  # of the object, projected to rank the looks


@dataclass(frozen=True, eq=False)
class Cutout:
    """A part of a look that shows an object."""

    look: str  # name of the view
    box: tuple[int, int, int, int]  # left, top, right, bottom in the look's pixels; right and bottom are outside
    image: Image  # [bottom − top, right − left, 3]


@dataclass(frozen=True, eq=False)
class JudgedLook:
    """A cut-out with what it is said to show."""

    cutout: Cutout
    probability: float  # of the prompt
    word: str  # the likeliest; the prompt itself, where it is that
    word_probability: float
    agrees: bool  # the prompt is likely enough beside the other words, though one of them may be likelier: see `passes`
    likeliest: bool  # the likeliest word is the prompt or a near-synonym


@dataclass(frozen=True, eq=False)
class SecondLook:
    """What the kept images say of one object that a prompt selected."""

    prompt: str
    looks: tuple[JudgedLook, ...]  # none where no kept image shows the object well enough
    probability: float  # of the prompt, over all looks together
    rival: str  # the likeliest other word that is not a near-synonym, over all looks together
    rival_probability: float
    kin: tuple[str, ...]  # near-synonyms that are likelier than the prompt
    confirmed: bool
    seconds: float

    @property
    def agreeing(self) -> int:
        """In how many of the looks the prompt is likely enough, whichever word is the likeliest."""
        return sum(look.agrees for look in self.looks)

    @property
    def otherwise(self) -> tuple[JudgedLook, ...]:
        """The looks that agree though another word is likelier there."""
        return tuple(look for look in self.looks if look.agrees and not look.likeliest)

    @property
    def summary(self) -> str:
        """For a person: how many looks agree, and what they say instead."""
        if not self.looks:
            return "no kept image shows it well enough for a second look"
        agree = f"{self.agreeing} of {len(self.looks)} looks agree"
        if self.otherwise:
            words = ", ".join(f"'{word}'" for word in dict.fromkeys(look.word for look in self.otherwise))
            agree += f" (in {len(self.otherwise)} of them {words} is likelier)"
        if not self.confirmed:
            return (
                f"{agree}; together they say '{self.rival}' ({self.rival_probability:.0%}, it {self.probability:.0%})"
            )
        return agree + (f"; it may also be called '{self.kin[0]}'" if self.kin else "")


def verify_mask(
    gaussians: GaussianMap,
    looks: Sequence[Look],
    judge: ImageJudge,
    prompt: str,
    mask: Tensor,
    part: Tensor | None = None,
) -> tuple[Tensor, tuple[SecondLook, ...]]:
    """A second look at each of the objects that a prompt selected, the largest first.

    Args:
        mask: [N] bool, what was selected, grown to whole objects or not.
        part: [N] bool, what was selected before it grew: where a whole is not confirmed, its part may be.

    Returns:
        The mask [N] bool without the objects that were not confirmed; with none confirmed it is empty. Objects too
        small for a look of their own share the fate of the answer. And what was seen.
    """
    rows = mask.nonzero()[:, 0]
    opacities = gaussians.opacities[rows].double().numpy()
    labels = cluster(gaussians.means[rows].double().numpy(), opacities)
    sizes = np.bincount(labels[labels >= 0], opacities[labels >= 0], minlength=1)
    large = [index for index in np.argsort(-sizes)[:MAX_OBJECTS].tolist() if sizes[index] >= MIN_SIZE * sizes.max()]
    kept, seen = mask.clone(), list[SecondLook]()
    for index in large if labels.max() >= 0 else []:
        whole = torch.zeros_like(mask)
        whole[rows[torch.from_numpy(labels == index)]] = True
        count = MAX_CUTOUTS if not seen else MORE_CUTOUTS
        look = second_look(gaussians, looks, judge, prompt, whole, count=count)
        confirmed = whole if look.confirmed else torch.zeros_like(whole)
        if not look.confirmed and part is not None and bool((whole & ~part).any()):
            of_part = second_look(gaussians, looks, judge, prompt, whole & part, count=count)
            if of_part.confirmed:
                look, confirmed = of_part, whole & part
        seen.append(look)
        kept &= confirmed | ~whole
    if seen and not any(look.confirmed for look in seen):
        kept = torch.zeros_like(mask)
    return kept, tuple(seen)


def second_look(
    gaussians: GaussianMap,
    looks: Sequence[Look],
    judge: ImageJudge,
    prompt: str,
    mask: Tensor,
    *,
    count: int = MAX_CUTOUTS,
    backend: BackendChoice = "auto",
) -> SecondLook:
    """Judge what a prompt selects by the images that show it best.

    The looks are witnesses of one object. Together they say the normalised geometric mean of their probabilities and
    of one more look that says nothing: few looks convince less than many that say the same, and many of one object,
    which are not independent, no more than one such look does by itself. The prompt is confirmed where it is likely
    enough, and beside the likeliest other word. It is too where it is the likeliest word on average. What no kept
    image shows is not confirmed.

    Args:
        looks: that the field kept.
        mask: [N] bool, the Gaussians selected: one object.
        count: cut-outs at most.

    Raises:
        UnknownPromptError: the extractor doesn't know the prompt.
    """
    start = time.perf_counter()
    cutouts = cut_out(gaussians, looks, mask, count, backend)
    if not cutouts:
        return SecondLook(prompt, (), 0.0, "", 0.0, (), False, time.perf_counter() - start)
    judgement = judge.judge([cutout.image for cutout in cutouts], prompt)
    logs, kin = judgement.log_probabilities, judgement.kin
    together = torch.softmax(logs.sum(dim=0) / (len(logs) + 1), dim=0)
    judged = tuple(_judged(cutout, row.exp(), judgement) for cutout, row in zip(cutouts, logs, strict=True))
    rivals = together.masked_fill(kin, 0.0)
    rivals[0] = 0.0
    rival = int(rivals.argmax())
    return SecondLook(
        prompt,
        judged,
        probability=float(together[0]),
        rival=judgement.words[rival],
        rival_probability=float(rivals[rival]),
        kin=_likelier_kin(judgement, together),
        confirmed=passes(together, kin) or _best_on_average(logs.exp(), kin),
        seconds=time.perf_counter() - start,
    )


def _judged(cutout: Cutout, probabilities: Tensor, judgement: Judgement) -> JudgedLook:
    likeliest = int(probabilities.argmax())
    return JudgedLook(
        cutout,
        float(probabilities[0]),
        judgement.words[likeliest],
        float(probabilities[likeliest]),
        passes(probabilities, judgement.kin),
        likeliest == 0 or bool(judgement.kin[likeliest]),
    )


def passes(probabilities: Tensor, kin: Tensor) -> bool:
    """Whether the first of probabilities [1 + K] holds against the others.

    Near-synonyms, ``kin`` [1 + K] bool, are one class with it against the rest: "cup" is as good as "coffee mug"
    against "loupe". Among them it must not be by far the least likely: a lemon is kin of an orange.
    """
    own = float(probabilities[0])
    alike = probabilities.masked_fill(~kin, 0.0)
    rival = float(probabilities[1:].masked_fill(kin[1:], 0.0).amax()) if len(kin) > 1 else 0.0
    return (
        own >= MIN_PROBABILITY
        and own + float(alike.sum()) >= MIN_FRACTION * rival
        and own >= MIN_KIN_FRACTION * float(alike.amax())
    )


def _best_on_average(probabilities: Tensor, kin: Tensor) -> bool:
    """Whether in some of the looks, [B, 1 + K], the prompt is so likely that no other word is likelier on average.

    A mug without its handle in sight, or half hidden, is something else with certainty, and the geometric mean believes
    every certainty. Here such looks only take no part.
    """
    if len(probabilities) < 2:
        return False
    mean = probabilities.mean(dim=0)
    others = mean.masked_fill(kin, 0.0)[1:]
    return passes(mean, kin) and float(mean[0]) >= MIN_AVERAGE and float(mean[0]) >= float(others.amax())


def cut_out(
    gaussians: GaussianMap,
    looks: Sequence[Look],
    mask: Tensor,
    count: int = MAX_CUTOUTS,
    backend: BackendChoice = "auto",
) -> list[Cutout]:
    """The looks in which the masked Gaussians [N] bool are largest, whole and least hidden, cut to them; best first."""
    rows = mask.nonzero()[:, 0]
    if len(rows) == 0:
        return []
    part = gaussians.select(rows)
    points = part.means[:: -(-len(rows) // POINTS)].double().numpy()
    ranked = sorted(looks, key=lambda look: -_projected_area(points, look))[: 2 * count]
    found: list[tuple[float, Look, tuple[int, int, int, int]]] = []
    for look in ranked:
        outline = _outline(gaussians, part, mask, look, backend)
        if outline is not None:
            found.append((outline[0], look, outline[1]))
    found.sort(key=lambda entry: -entry[0])
    return [Cutout(look.name, box, look.image[box[1] : box[3], box[0] : box[2]]) for _, look, box in found[:count]]


def _projected_area(points: NDArray[np.float64], look: Look) -> float:
    """Area in the image of the box around points [M, 3], times the fraction of them inside to the fourth."""
    camera, pose = look.camera, look.camera_from_splat
    seen = points @ pose[:3, :3].T + pose[:3, 3]
    front = seen[:, 2] > 0
    if not front.any():
        return 0.0
    z = np.where(front, seen[:, 2], 1.0)
    x, y = camera.fx * seen[:, 0] / z + camera.cx, camera.fy * seen[:, 1] / z + camera.cy
    inside = front & (x > 0) & (x < camera.width) & (y > 0) & (y < camera.height)
    if not inside.any():
        return 0.0
    area = np.ptp(np.quantile(x[inside], [0.05, 0.95])) * np.ptp(np.quantile(y[inside], [0.05, 0.95]))
    return float(area * inside.mean() ** 4)


def _outline(
    gaussians: GaussianMap, part: GaussianMap, mask: Tensor, look: Look, backend: BackendChoice
) -> tuple[float, tuple[int, int, int, int]] | None:
    """How well a look shows the object, and the cut-out's box; None where it is small or hidden."""
    factor = min(1.0, SILHOUETTE_SIDE / max(look.camera.width, look.camera.height))
    width, height = (max(1, round(side * factor)) for side in (look.camera.width, look.camera.height))
    small = look.camera.resized(width, height)
    weights = rasterizer.view(gaussians, small, look.camera_from_splat, backend).render(mask.float().unsqueeze(1))
    alone = rasterizer.view(part, small, look.camera_from_splat, backend).render(torch.ones(len(part), 1))
    shown, whole = (weights[:, :, 0] > OUTLINE).numpy(), (alone[:, :, 0] > OUTLINE).numpy()
    visible = float(shown.sum()) / max(1.0, float(whole.sum()))
    if visible < MIN_VISIBLE or not shown.any():
        return None
    # Back to the look's pixels; the outline's cells are `1 / factor` wide.
    rows, columns = np.nonzero(shown)
    left, right = columns.min() * look.camera.width / width, (columns.max() + 1) * look.camera.width / width
    top, bottom = rows.min() * look.camera.height / height, (rows.max() + 1) * look.camera.height / height
    side = max(right - left, bottom - top)
    if side < MIN_PIXELS:
        return None
    cut = (columns.min() == 0) + (columns.max() == width - 1) + (rows.min() == 0) + (rows.max() == height - 1)
    quality = float(shown.sum()) * visible**2 * 0.25 ** float(cut)
    return quality, _square_around((left + right) / 2, (top + bottom) / 2, side * (1 + MARGIN), look.camera)


def _square_around(x: float, y: float, side: float, camera: Camera) -> tuple[int, int, int, int]:
    """A square of about this side, moved into the image; cut to it where it is larger."""

    def within(centre: float, length: int) -> tuple[int, int]:
        size = min(round(side), length)
        start = min(max(0, round(centre - size / 2)), length - size)
        return start, start + max(1, size)

    (left, right), (top, bottom) = within(x, camera.width), within(y, camera.height)
    return left, top, right, bottom


def _likelier_kin(judgement: Judgement, together: Tensor) -> tuple[str, ...]:
    likelier = (judgement.kin & (together > together[0])).nonzero()[:, 0].tolist()
    return tuple(judgement.words[index] for index in sorted(likelier, key=lambda index: -float(together[index])))
