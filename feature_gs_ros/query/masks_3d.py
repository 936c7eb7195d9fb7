"""Prompts → scores → 3D masks over Gaussians (Eq. 6)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import FieldError, PromptError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import MemoryLimit, check_budget, resident_bytes
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.base import Extractor, ImageJudge, ScoringRule, image_judge, needed_directions
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.numerics.products import affine_products
from feature_gs_ros.query.extent import Extent, whole_objects
from feature_gs_ros.query.prompt import TextPrompts, check_threshold
from feature_gs_ros.query.smoothing import GaussianGraph
from feature_gs_ros.query.verify import SecondLook, verify_mask

MIN_SUMMED_OPACITY = 5.0  # summed opacity of the Gaussians that must pass
OBSERVED = 0.5  # coverage under which "nothing passes" says nothing
GRAPH_BYTES = 1200  # per Gaussian, while the graph of a map is prepared
CHUNK = 16384  # Gaussians scored at once
LARGE_CHUNK = 1 << 19  # the same where features are read as they are: each chunk costs one thread barrier
SAMPLE = 1000  # Gaussians on which a prompt is held against its competitors


class State(Enum):
    """What an answer says."""

    FOUND = "found"
    NOT_FOUND = "not found"
    NOT_OBSERVED = "not observed"


@dataclass(frozen=True, eq=False)
class Answer:
    """One prompt's answer, for N Gaussians in the map's order."""

    prompt: str
    state: State
    mask: Tensor  # [N] bool, the Gaussians that pass (Eq. 6)
    similarity: Tensor  # [N] float32, 0 where nothing was seen
    coverage: float  # opacity-weighted fraction, of the Gaussians asked about, that were seen
    threshold: float
    seconds: float
    message: str  # for a person
    second_looks: tuple[SecondLook, ...] = ()  # at the objects selected, the largest first
    selected: Tensor | None = None  # [N] bool, what passes by itself, where `mask` grew to whole objects
    rival: str = ""  # where the prompt is not found: the word that is likelier there, if any

    @property
    def verify_seconds(self) -> float:
        """What of `seconds` the second looks took."""
        return sum(look.seconds for look in self.second_looks)


@dataclass(frozen=True, eq=False)
class ScoredPrompts:
    """Similarities of prompts, kept: `Segmenter.answers_of` answers at any threshold without scoring again."""

    question: TextPrompts
    similarities: Tensor  # [N, P], columns in the order of the question's texts; where the field's features lie
    winners: tuple[str, ...] = ()  # for each text the word that beat it, or ""
    judge: ImageJudge | None = None  # takes a second look at what is selected

    def at(self, threshold: float) -> ScoredPrompts:
        """The same prompts at another threshold."""
        return replace(self, question=replace(self.question, threshold=threshold))


class Segmenter:
    """Answers queries on one snapshot of a field; what all queries share is made once, on first use.

    Scores, smoothing and the winning prompts are computed on the device that holds the field's features; only masks,
    requested similarities and the features of a few Gaussians are copied to the host.

    >>> segmenter = Segmenter(load_map("map.ply"), FeatureField.load("field.safetensors"))  # doctest: +SKIP
    >>> answer = segmenter.ask(["coffee mug"], negatives=["bottle"])[0]  # doctest: +SKIP
    >>> answer.state, answer.mask.sum(), answer.message  # doctest: +SKIP
    """

    def __init__(
        self,
        gaussians: GaussianMap,
        field: FeatureField,
        extractor: Extractor | None = None,
        graph: GaussianGraph | None = None,
        memory: MemoryLimit | None = None,
    ) -> None:
        """
        Args:
            gaussians: the map that the field belongs to, N Gaussians.
            field: features of its Gaussians [N, D or K].
            extractor: the field's; by default created from its identity.
            graph: of this map, if there is one already; it doesn't depend on the field.
            memory: to stay within: of a field that is mapped, pages that were read are given back.

        Raises:
            FieldError: the field belongs to another map or extractor.
            ExtractorError: the field's extractor can't be made here.
        """
        field.check_map(gaussians)
        extractor = extractor_of(field.extractor) if extractor is None else extractor
        field.check_extractor(extractor.identity)
        if graph is not None and len(graph) != len(gaussians):
            raise FieldError(
                f"the graph is of {len(graph)} Gaussians, the map has {len(gaussians)}", code="field.mismatch"
            )
        self.gaussians = gaussians
        self.field = field
        self.extractor = extractor
        self.memory = memory
        self._graph = graph
        self._building = threading.Lock()

    def ask(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str] = (),
        threshold: float | None = None,
        among: Tensor | None = None,
        verify: bool = True,
        extent: Extent | None = None,
    ) -> list[Answer]:
        """Answer text prompts. A Gaussian goes to the prompt or negative of highest similarity, and over the threshold.

        Args:
            negatives: what else there is; the extractor's own last negative ("other") is added.
            threshold: on the similarity; the extractor's by default.
            among: [N] bool, the Gaussians asked about; all by default.
            verify: take a second look at what is found, where the extractor can and the field keeps images.
            extent: "object" to grow what is found to the object that stands free there, see `whole_object`; "part" not
                to. By default it depends on whether the extractor's words name objects.

        Raises:
            UnknownPromptError: the extractor doesn't know a word; it names the nearest known ones.
            PromptError: an empty or overlong prompt, or a threshold that is not a number.
        """
        start = time.perf_counter()
        scored = self.score(prompts, negatives, threshold, verify)
        return self.answers_of(scored, among, start=start, extent=extent or self._extent)

    def score(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str] = (),
        threshold: float | None = None,
        verify: bool = True,
    ) -> ScoredPrompts:
        """The part of `ask` that takes time; arguments and errors are the same."""
        question = TextPrompts.of(self.extractor.text_rule, prompts, negatives, threshold)
        judge = self._judge if verify else None
        similarities, winners = self._similarities(question.texts, judge.candidate_rule if judge else None)
        return ScoredPrompts(question, similarities, tuple(winners), judge)

    def answers_of(
        self,
        scored: ScoredPrompts,
        among: Tensor | None = None,
        verify: bool = True,
        start: float | None = None,
        extent: Extent = "part",
    ) -> list[Answer]:
        """The answers to prompts that were scored.

        Args:
            among: [N] bool, the Gaussians asked about; all by default.
            verify: take the second look that they were scored for.
            start: of the clock; now by default.
            extent: as for `ask`.
        """
        start = time.perf_counter() if start is None else start
        question, judge = scored.question, scored.judge
        answers = self._answers(
            question.asked, scored.similarities, question.threshold, among, start, scored.winners, extent
        )
        return [self._verified(answer, judge) for answer in answers] if judge and verify else answers

    @property
    def _extent(self) -> Extent:
        """The default for text queries."""
        return "object" if self.extractor.text_rule.names_objects else "part"

    @property
    def _judge(self) -> ImageJudge | None:
        """Who takes a second look; None where the extractor can't, or there is nothing to look at."""
        return image_judge(self.extractor) if len(self.field.looks) else None

    def _verified(self, answer: Answer, judge: ImageJudge) -> Answer:
        """The answer after a second look, see `verify_mask`."""
        if answer.state is not State.FOUND:
            return answer
        start = time.perf_counter()
        kept = self.field.looks.kept
        mask, looks = verify_mask(self.gaussians, kept, judge, answer.prompt, answer.mask, answer.selected)
        state = decide(float(self.gaussians.opacities[mask].sum()), answer.coverage)
        message = answer.message if state is State.FOUND else f"'{answer.prompt}' {state.value}"
        if looks:
            message += f"; {next((look for look in looks if look.confirmed), looks[0]).summary}"
        rival = looks[0].rival if looks and state is not State.FOUND else ""
        seconds = answer.seconds + time.perf_counter() - start
        return replace(
            answer, state=state, mask=mask, message=message, second_looks=looks, seconds=seconds, rival=rival
        )

    def ask_many(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str] = (),
        threshold: float | None = None,
        among: Tensor | None = None,
        verify: bool = True,
        extent: Extent | None = None,
    ) -> list[Answer]:
        """Answer prompts that have nothing to do with each other, each as if it were asked alone, in one pass.

        Arguments and errors are those of `ask`, in which prompts compete for a Gaussian. `Answer.seconds` is of all.
        """
        start = time.perf_counter()
        question = TextPrompts.of(self.extractor.text_rule, prompts, negatives, threshold)
        judge = self._judge if verify else None
        similarities, winners = self._similarities(question.texts, judge.candidate_rule if judge else None)
        answers = []
        for index, prompt in enumerate(question.asked):
            columns = [index, *question.competitors(index, self.extractor.text_rule.other)]
            alone, winner = similarities[:, torch.tensor(columns)], winners[index : index + 1]
            chosen = extent or self._extent
            answers += self._answers([prompt], alone, question.threshold, among, start, winner, chosen)
        return [self._verified(answer, judge) for answer in answers] if judge else answers

    def ask_example(
        self,
        examples: Tensor,  # [E, D] features of what is meant
        negatives: Tensor | None = None,  # [B, D] features of what is not
        threshold: float | None = None,
        among: Tensor | None = None,
        prompt: str = "the example",
    ) -> Answer:
        """Answer a prompt given as features: of an image's crop or mask, or of Gaussians that were clicked.

        Raises:
            PromptError: no example, features of another dimension, or features that are not finite.
        """
        start = time.perf_counter()
        return self.answers_of(self.score_examples(examples, negatives, threshold, prompt), among, start=start)[0]

    def score_examples(
        self,
        examples: Tensor,
        negatives: Tensor | None = None,
        threshold: float | None = None,
        prompt: str = "the example",
    ) -> ScoredPrompts:
        """The part of `ask_example` that takes time; arguments and errors are the same."""
        threshold = check_threshold(threshold, self.extractor.example_rule)
        columns = [self._nearest(examples, "example")]
        others = negatives is not None and len(negatives) > 0
        if negatives is not None and others:
            columns.append(self._nearest(negatives, "negative"))
        question = TextPrompts((prompt,), ("negative example",) if others else (), threshold)
        return ScoredPrompts(question, torch.stack(columns, dim=1))

    def similarities_of_text(self, texts: Sequence[str]) -> Tensor:
        """Similarity [N, P] of every Gaussian to every text, by the extractor's rule; 0 where nothing was seen.

        It lies where the field's features lie.
        """
        return self._similarities(texts)[0]

    def _similarities(self, texts: Sequence[str], rule: ScoringRule | None = None) -> tuple[Tensor, list[str]]:
        """`similarities_of_text` by the extractor's or another rule; and for each text the word that beat it, or ""."""
        embeddings = self.extractor.embed(texts)
        scores = self._text_scores(embeddings)
        rule = rule or self.extractor.text_rule
        seen = self.field.seen.to(scores.device)
        if rule.smoothing_rate > 0 and bool(seen.any()):
            scores = self.graph.smooth(scores, rule.smoothing_rate, seen)
        if rule.plain:
            similarities = torch.where(seen.unsqueeze(1), scores, 0.0)
        else:
            similarities = torch.zeros_like(scores)
            similarities[seen] = rule.similarities(scores[seen])
        winners = [""] * len(texts)
        for column, embedding in enumerate(embeddings if rule.competitors is not None else ()):
            winner = self._winning_competitor(similarities[:, column], embedding, rule)
            if winner is not None:
                similarities[:, column] = 0
                winners[column] = rule.competitor_names[winner] if rule.competitor_names else "another word"
        return similarities, winners

    def _text_scores(self, embeddings: Tensor) -> Tensor:
        """The extractor's scores [N, P] of all Gaussians."""
        prepared = self._prepared
        as_stored = self.field.codec is None and self.field.features.dtype == torch.float32
        embeddings = embeddings.to(prepared.device)
        directions = needed_directions(self.extractor, embeddings) if self.field.codec else None
        if directions is not None:
            return self._scored_codes(embeddings @ directions, directions)
        return self._scored(
            lambda features, rows: self.extractor.scores(features, embeddings, prepared[rows]),
            LARGE_CHUNK if as_stored else CHUNK,
        )

    def _competitors_scores(self, rows: Tensor, competitors: Tensor) -> Tensor:
        """Scores [M, K] of a few Gaussians' features for all the words there are."""
        return self.extractor.scores(self.field.decoded(rows), competitors, self._prepared[rows].to(HOST))

    def _winning_competitor(self, similarity: Tensor, embedding: Tensor, rule: ScoringRule) -> int | None:
        """`ScoringRule.winning_competitor` for a sample of the Gaussians that a prompt selects by default."""
        selected = torch.nonzero(similarity > rule.threshold)[:, 0].to(HOST)
        if rule.competitors is None or len(selected) == 0:
            return None
        rows = selected[:: -(-len(selected) // SAMPLE)]
        scores = self._competitors_scores(rows, rule.competitors)
        return rule.winning_competitor(embedding, scores, self.gaussians.opacities[rows])

    @property
    def graph(self) -> GaussianGraph:
        """Neighbouring Gaussians, found on first use."""
        with self._building:
            if self._graph is None:
                if self.memory is not None:
                    check_budget(
                        GRAPH_BYTES * len(self.gaussians) + (resident_bytes() or 0),
                        self.memory.limit,
                        f"spreading scores over the neighbours of {len(self.gaussians)} Gaussians",
                        f"raise --memory, or use an extractor that needs no spreading ('{self.extractor.identity.name}'"
                        " does)",
                    )
                self._graph = GaussianGraph.of(self.gaussians)
            return self._graph

    @cached_property
    def _prepared(self) -> Tensor:
        """What of each feature the scores need once and for all (a norm, a partition sum), [N]."""
        return self._scored(lambda features, _: self.extractor.prepare(features).unsqueeze(1))[:, 0]

    def _scored(self, score, chunk: int = CHUNK) -> Tensor:  # type: ignore[no-untyped-def]
        """``score(features [M, D], rows)`` -> [M, P] over all Gaussians, a chunk at a time."""
        chunks = []
        for first in range(0, len(self.field), chunk):
            rows = slice(first, first + chunk)
            chunks.append(score(self.field.resident(rows), rows))
            if self.memory is not None:
                self.memory.relieve(self.field.features, self.gaussians.means)
        return torch.cat(chunks)

    def _scored_codes(self, embeddings: Tensor, directions: Tensor) -> Tensor:
        """Scores [N, P] by the codes: of features along ``directions`` [D, Q], for embeddings [P, Q] along these."""
        assert self.field.codec is not None
        along = affine_products(self.field.features, *self.field.codec.along(directions))
        return self.extractor.scores(along, embeddings, self._prepared)

    def _nearest(self, examples: Tensor, what: str) -> Tensor:
        """Similarity [N] to the nearest of the examples [E, D]."""
        if examples.dim() != 2 or examples.shape[1] != self.field.dimension or len(examples) == 0:
            raise PromptError(
                f"{what} features have shape {tuple(examples.shape)}, expected (E ≥ 1, {self.field.dimension})",
                code="prompt.shape",
            )
        if not bool(torch.isfinite(examples).all()):
            raise PromptError(f"{what} features hold NaN or Inf", code="prompt.not-finite")
        examples = examples.to(self.field.features.device)
        plain = self.field.codec is not None and getattr(self.extractor, "plain_cosines", False)
        directions = needed_directions(self.extractor, examples) if plain else None
        if directions is not None:
            similar = self._scored_codes(examples @ directions, directions).amax(dim=1)
        else:
            similar = self._scored(
                lambda features, _: self.extractor.similarities(features, examples).amax(dim=1, keepdim=True)
            )[:, 0]
        return torch.where(self.field.seen.to(similar.device), similar, 0.0)

    def _answers(
        self,
        prompts: Sequence[str],
        similarities: Tensor,  # [N, prompts, then negatives]
        threshold: float,
        among: Tensor | None,
        start: float,
        winners: Sequence[str] = (),  # for each prompt the word that beat it, or ""
        extent: Extent = "part",
    ) -> list[Answer]:
        coverage = self.field.coverage(self.gaussians, among)
        highest, best = similarities.max(dim=1)
        asked = self.field.seen if among is None else self.field.seen & among.to(HOST)
        there = asked.to(similarities.device)
        answers = []
        for index, prompt in enumerate(prompts):
            wins = best == index
            mask = (there & wins & (similarities[:, index] > threshold)).to(HOST)
            similarity = similarities[:, index].to(HOST, copy=True)
            opacity = float(self.gaussians.opacities[mask].sum())
            state = decide(opacity, coverage)
            selected = None
            if state is State.FOUND and extent == "object":
                others = (~wins & (highest > threshold)).to(HOST)  # another text has them
                selected, mask = mask, mask | (whole_objects(self.gaussians, mask) & asked & ~others)
            peak = float(similarity[asked].max()) if bool(asked.any()) else 0.0
            winner = winners[index] if winners and state is not State.FOUND else ""
            message = _message(prompt, state, int(mask.sum()), peak, threshold, coverage, winner)
            seconds = time.perf_counter() - start
            answer = Answer(prompt, state, mask, similarity, coverage, threshold, seconds, message)
            answers.append(replace(answer, selected=selected, rival=winner))
        return answers


def decide(opacity: float, coverage: float) -> State:
    """The three states: enough opacity passes; else whether enough was seen to say that there is nothing."""
    if opacity >= MIN_SUMMED_OPACITY:
        return State.FOUND
    return State.NOT_OBSERVED if coverage < OBSERVED else State.NOT_FOUND


def _message(
    prompt: str, state: State, count: int, best: float, threshold: float, coverage: float, winner: str = ""
) -> str:
    seen = f"{coverage:.0%} of what was asked about was seen"
    if state is State.FOUND:
        return f"'{prompt}' found: {count} Gaussians; {seen}"
    why = f"best similarity {best:.2f}, threshold {threshold:.2f}"
    if best == 0:  # a relative rule gives it to prompts that are absent, whatever the threshold
        why = f"where it stands out, '{winner}' is far likelier" if winner else "it stands out nowhere"
    elif best > threshold:
        few = f"only {count} Gaussians pass, too few for an object"
        why = few if count else "the matching Gaussians fit another prompt better"
    nothing = f"'{prompt}' {state.value}: {why}; {seen}"
    return nothing + (": look around more" if state is State.NOT_OBSERVED else "")
