"""2D-3D transfer: the k nearest source patches of every Gaussian vote for its affordance (Joseph et al., 3.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from feature_gs_ros.affordance.library import Library
from feature_gs_ros.affordance.nearest import nearest_patches
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import AffordanceError, OutOfMemoryError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.query.masks_3d import State, decide
from feature_gs_ros.query.smoothing import GaussianGraph

Vote = Literal["majority", "distance"]
TEMPERATURE = 0.05  # of the votes by distance: a cosine smaller by this much counts e times less
MIN_SMOOTHING_RATE = 1e-6  # rate of spreading: beyond it, or its inverse, single precision ends
CHUNK = 65536  # Gaussians whose votes are counted at once


@dataclass(frozen=True)
class Settings:
    """How neighbours decide."""

    k: int = 5  # neighbours that vote
    vote: Vote = "majority"  # one vote each, or weighted by softmax(cosine / `TEMPERATURE`)
    floor: float | None = None  # best cosine under which a Gaussian abstains; the library's by default
    smoothing_rate: float = 0.3  # rate of `GaussianGraph.smooth` over neighbouring Gaussians; 0: none

    def __post_init__(self) -> None:
        if self.k < 1:
            raise AffordanceError(
                f"k={self.k} neighbours can't vote; choose 1 or more, e.g. 5", code="affordance.range"
            )
        if self.vote not in ("majority", "distance"):
            raise AffordanceError(
                f"vote '{self.vote}' is unknown; choose majority or distance", code="affordance.unknown"
            )
        if self.floor is not None and not -1 <= self.floor <= 1:
            raise AffordanceError(
                f"similarity floor {self.floor} is not a cosine; choose -1 to 1", code="affordance.range"
            )
        if self.smoothing_rate != 0 and not MIN_SMOOTHING_RATE <= self.smoothing_rate <= 1 / MIN_SMOOTHING_RATE:
            raise AffordanceError(
                f"smoothing rate {self.smoothing_rate} is out of range; choose 0 (none), "
                f"or {MIN_SMOOTHING_RATE:g} to {1 / MIN_SMOOTHING_RATE:g}",
                code="affordance.range",
            )


DEFAULTS = Settings()


@dataclass(frozen=True, eq=False)
class Transfer:
    """What affordance each Gaussian has."""

    affordances: tuple[str, ...]
    probability: Tensor  # [N, 1 + A] fraction of the votes, 0 is none; rows sum to 1
    similarity: Tensor  # [N] best cosine to a patch, 0 where nothing was seen
    abstained: Tensor  # [N] bool, seen and asked about, but like no patch of the sources
    asked: Tensor  # [N] bool, seen and asked about
    coverage: float  # opacity-weighted fraction, of the Gaussians asked about (of all if of none), that were seen
    seconds: float
    stopped_by: OutOfMemoryError | None = None  # what kept the votes from being regularised

    @property
    def label(self) -> Tensor:
        """[N] int64: 0 none, k affordances[k − 1]."""
        return self.probability.argmax(dim=1)

    def mask(self, affordance: str) -> Tensor:
        """[N] bool.

        Raises:
            AffordanceError: it was not asked for.
        """
        if affordance not in self.affordances:
            raise AffordanceError(
                f"no affordance '{affordance}' was transferred; there are {', '.join(self.affordances)}",
                code="affordance.missing",
            )
        return self.label == 1 + self.affordances.index(affordance)

    def state(self, affordance: str, gaussians: GaussianMap) -> State:
        """Found, not found, or not observed."""
        return decide(float(gaussians.opacities[self.mask(affordance)].sum()), self.coverage)

    def message(self, gaussians: GaussianMap) -> str:
        """What was found, and how much abstained, for a person."""
        parts = [f"'{word}' {self.state(word, gaussians).value}" for word in self.affordances]
        asked = max(1, int(self.asked.sum()))
        return (
            f"{', '.join(parts)}; {int(self.abstained.sum()) / asked:.0%} of the Gaussians are like no patch of the "
            f"sources and abstain; {self.coverage:.0%} of what was asked about was seen"
        )


def transfer(
    gaussians: GaussianMap,
    field: FeatureField,
    library: Library,
    settings: Settings = DEFAULTS,
    *,
    among: Tensor | None = None,
    object_word: str = "",
    graph: Callable[[], GaussianGraph] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Transfer:
    """Transfer the library's affordances to every Gaussian of a field.

    Each patch votes with its fractions, so that one half covered votes half. Regularising moves votes between
    neighbouring Gaussians of like colour, and settles thin parts and borders that the extractor's cells blur: there
    the patches disagree, and a Gaussian follows its neighbours the more, the less its own patches agree.

    Args:
        among: [N] bool, the Gaussians asked about, e.g. the mask of a text query; all by default. Where there are
            none, because no such object was found, coverage is that of the whole map.
        object_word: only sources with this word.
        graph: gives the map's graph, if there is one already; made where ``settings.smoothing_rate`` needs it.
        progress: called with the Gaussians done, and all; True stops.

    Raises:
        StoppedError: ``progress`` stopped it.
        FieldError: the field belongs to another map.
        AffordanceError: the library is empty or of another extractor, k is larger than its patches, or features are
            not finite.
    """
    start = time.perf_counter()
    field.check_map(gaussians)
    library.check_extractor(field.extractor)
    affordances, features, fractions = voters(library, object_word)
    asked = field.seen if among is None else field.seen & among
    rows = asked.nonzero()[:, 0]
    there = field.features.device
    similar, index = nearest_patches(
        lambda part: field.resident(rows[part]), len(rows), features, settings.k, progress, device=there
    )
    floor = library.floor if settings.floor is None else settings.floor
    nothing = _nothing(len(affordances)).to(there)
    probability = nothing.repeat(len(field), 1)
    similarity = torch.zeros(len(field))
    similarity[rows] = similar[:, 0].to(HOST)
    abstained = torch.zeros_like(asked)
    abstained[rows] = (similar[:, 0] < floor).to(HOST)
    probability[rows.to(there)] = count_votes(similar, index, fractions.to(there), settings.vote)
    probability[abstained.to(there)] = nothing
    stopped_by = None
    if settings.smoothing_rate > 0 and len(rows):
        try:
            with memory_errors():
                graph_ = graph() if graph is not None else GaussianGraph.of(gaussians)
                smooth = graph_.smooth(probability, settings.smoothing_rate, asked, agreement(probability)).clamp_min(0)
                smooth /= smooth.sum(dim=1, keepdim=True).clamp_min(1e-12)
                smooth[~asked.to(there)] = nothing
                abstained &= (smooth.argmax(dim=1) == 0).to(HOST)  # neighbours may have spoken for it
                probability = smooth
        except OutOfMemoryError as error:
            stopped_by = error
    probability = probability.to(HOST)
    anything = among is not None and bool(among.any())
    coverage = field.coverage(gaussians, among if anything else None)
    seconds = time.perf_counter() - start
    return Transfer(affordances, probability, similarity, abstained, asked, coverage, seconds, stopped_by)


def voters(library: Library, object_word: str = "") -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Affordances, features [M, D] float32 and fractions [M, 1 + A] of all patches; column 0 is what is unmarked.

    Raises:
        AffordanceError: the library is empty, or has no source of this object.
    """
    if not library.sources:
        raise AffordanceError(
            "the library is empty; add a source with: feature-gs affordance add IMAGE MASK --library FILE",
            code="affordance.empty",
        )
    word = object_word.strip().lower()
    sources = [source for source in library.sources if not word or source.object.lower() == word]
    if not sources:
        known = ", ".join(sorted({source.object for source in library.sources if source.object})) or "none"
        raise AffordanceError(
            f"no source of the library is of '{object_word}'; its objects: {known}", code="affordance.missing"
        )
    affordances = tuple(dict.fromkeys(name for source in sources for name in source.affordances))
    fractions = []
    for source in sources:
        own = torch.zeros(len(source.features), 1 + len(affordances))
        own[:, [1 + affordances.index(name) for name in source.affordances]] = source.fractions.float()
        own[:, 0] = (1 - own.sum(dim=1)).clamp_min(0)
        fractions.append(own)
    return affordances, torch.cat([source.features for source in sources]).float(), torch.cat(fractions)


def count_votes(similar: Tensor, index: Tensor, fractions: Tensor, vote: Vote) -> Tensor:
    """Votes [n, 1 + A] of neighbours with cosines and rows [n, k], each row summing to 1; fractions [M, 1 + A]."""
    votes = fractions.new_empty(len(index), fractions.shape[1])
    for first in range(0, len(index), CHUNK):
        rows = slice(first, first + CHUNK)
        of_neighbours = fractions[index[rows]]  # [n, k, 1 + A]
        if vote == "majority":
            votes[rows] = of_neighbours.mean(dim=1)
        else:
            weights = torch.softmax(similar[rows] / TEMPERATURE, dim=1)
            votes[rows] = (of_neighbours * weights.unsqueeze(2)).sum(dim=1)
    return votes


def agreement(votes: Tensor) -> Tensor:
    """Trust [N] in votes [N, 1 + A]: the square of the first label's lead over the second, 1 where all agree."""
    first, second = votes.topk(2, dim=1).values.unbind(1)
    return (first - second) ** 2


def only(transferred: Transfer, affordances: Sequence[str]) -> Transfer:
    """A transfer of these affordances; the others become none.

    A Gaussian has the affordance that it had among all: what one of these won stays its own, with the fraction of the
    votes that are for these or for none, and what another won is none's.

    Raises:
        AffordanceError: one was not transferred.
    """
    names = tuple(dict.fromkeys(affordances))
    masks = [transferred.mask(name) for name in names]
    columns = [0, *(1 + transferred.affordances.index(name) for name in names)]
    winner = torch.zeros(len(transferred.probability), dtype=torch.int64)  # column of the result
    for column, mask in enumerate(masks, start=1):
        winner[mask] = column
    won = winner > 0
    probability = transferred.probability[:, columns]
    probability[won] /= probability[won].sum(dim=1, keepdim=True)
    probability[~won, 0] = 1 - probability[~won, 1:].sum(dim=1)
    # Where the first two were level, another order of the columns must not let the second win.
    level = probability.argmax(dim=1) != winner
    probability[level, winner[level]] = torch.nextafter(probability[level].amax(dim=1), torch.tensor(2.0))
    return replace(transferred, affordances=names, probability=probability)


def _nothing(affordances: int) -> Tensor:
    row = torch.zeros(1 + affordances)
    row[0] = 1.0
    return row
