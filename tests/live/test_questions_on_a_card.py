"""Questions to sums on a card, played on torch's CPU device: answers are the host's, and no features leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_map
from played_card import CARD, PlayedBackend, played_card
from torch import Tensor
from torch.overrides import TorchFunctionMode

from feature_gs_ros.affordance import Library, Settings, Source, Transfer, transfer
from feature_gs_ros.affordance.nearest import nearest_patches
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.codec import fit_pca
from feature_gs_ros.core.errors import OutOfMemoryError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, ScoringRule
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.live.live_field import LiveField, LiveMap
from feature_gs_ros.numerics import device
from feature_gs_ros.query.masks_2d import segment_view
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.smoothing import GaussianGraph
from feature_gs_ros.rasterizer import BackendChoice, get_backend

pytest.importorskip("warp")
pytestmark = pytest.mark.slow

COUNT, CHANNELS = 500, 24
CAMERA = Camera(64, 48, 60.0, 60.0, 32.0, 24.0)
RULES = {
    "cosine": ScoringRule(threshold=0.1, other="other"),
    "relative": ScoringRule(threshold=0.5, relative=True, contrast=1.0),
    "spread": ScoringRule(threshold=0.3, relative=True, smoothing_rate=0.01),
}


class Words(Extractor):
    """Random directions for words; cosines, or a softmax over five words, of which a partition sum is prepared."""

    example_rule = ScoringRule(threshold=0.2)

    def __init__(self, rule: str, softmax: bool = False) -> None:
        super().__init__()
        self.identity = ExtractorIdentity("words")
        self.dimension = CHANNELS
        self.text_rule = RULES[rule]
        self.scale_invariant = not softmax
        self._softmax = softmax
        self._all = torch.randn(5, CHANNELS, generator=torch.Generator().manual_seed(7))

    def prepare(self, features: Tensor) -> Tensor:
        if self._softmax:
            return (features @ self._all.to(features.device).T).logsumexp(dim=1)
        return torch.linalg.vector_norm(features, dim=1)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        if not self._softmax:
            return cosine(features, embeddings, prepared)
        assert prepared is not None
        return (features @ embeddings.T - prepared[:, None]).exp()

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        return cosine(features, examples)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return self._all[[{"red": 0, "green": 1, "blue": 2, "other": 3}[prompt] for prompt in prompts]]


class Leaving(TorchFunctionMode):
    """How many numbers at most came to the host in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        leaves = func in (Tensor.numpy, Tensor.cpu, Tensor.tolist, Tensor.item)
        leaves |= func is Tensor.to and any(
            isinstance(word, torch.device) for word in (*args, *(kwargs or {}).values())
        )
        if leaves:
            self.most = max(self.most, args[0].numel())
        return func(*args, **(kwargs or {}))


@contextmanager
def on_a_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(device, "NUMBA", frozenset())
        yield


def live_field(extractor: Extractor, backend: BackendChoice = "warp-cpu") -> LiveField:
    """Three views of noise."""
    made = LiveField(LiveMap(random_map(3, COUNT), "map.ply", Sim3.identity(), extractor, get_backend(backend), None))
    for seed, angle in enumerate((0.0, 0.5, 1.0)):
        c, s = np.cos(angle), np.sin(angle)
        pose = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 3], [0, 0, 0, 1.0]])
        values = torch.randn(6, 8, CHANNELS, generator=torch.Generator().manual_seed(seed))
        made.add(made.map.view(CAMERA, pose), FeatureGrid(values), name=str(seed))
    made.flush()
    return made


def field_of() -> tuple[Segmenter, FeatureField]:
    live = live_field(Words("cosine"))
    field = live.snapshot().segmenter.field
    return Segmenter(live.gaussians, field, live.map.extractor), field


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("asked_of", ["sums", "snapshot"])
def test_answers_are_those_of_the_host(
    rule: str, softmax: bool, asked_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(live: LiveField) -> list[Any]:
        snapshot = live.question() if asked_of == "sums" else live.snapshot()
        return snapshot.segmenter.ask(["red", "green"], ["blue"]) + snapshot.segmenter.ask_many(["red", "blue"])

    extractor = Words(rule, softmax)
    expected = ask(live_field(extractor))
    live = live_field(extractor)
    with on_a_card(monkeypatch):
        found = ask(live)
        with Leaving() as leaving:  # from now on: the graph went there once
            ask(live)
    assert leaving.most <= COUNT  # masks and similarities of a prompt
    assert any(bool(answer.mask.any()) for answer in expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.similarity, theirs.similarity, atol=1e-5, rtol=1e-5)
        assert torch.equal(ours.mask, theirs.mask)
        assert (ours.state, ours.coverage) == (theirs.state, theirs.coverage)


def test_an_example_is_answered_as_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, field = field_of()
    examples, negatives = field.decoded(torch.tensor([3, 40])), field.decoded(torch.tensor([200]))
    expected = segmenter.ask_example(examples, negatives)
    live = live_field(Words("cosine"))
    with on_a_card(monkeypatch), Leaving() as leaving:
        found = live.snapshot().segmenter.ask_example(examples, negatives)
    assert leaving.most <= COUNT
    torch.testing.assert_close(found.similarity, expected.similarity, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.mask, expected.mask)


def test_a_rendered_view_is_segmented_as_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, _ = field_of()
    pose = np.eye(4)
    pose[2, 3] = 3.0
    view = get_backend("warp-cpu").view(segmenter.gaussians, CAMERA, pose)
    expected = segment_view(segmenter, view, ["red", "other"])
    with on_a_card(monkeypatch):
        found = segment_view(segmenter, view, ["red", "other"])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("columns", [1, 3, 17])
def test_scores_spread_as_on_the_host(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 5,000 on, the hierarchy has several levels."""
    graph, generator = GaussianGraph(random_map(1, 5000)), torch.Generator().manual_seed(columns)
    scores, seen = torch.rand(5000, columns, generator=generator), torch.rand(5000, generator=generator) > 0.3
    trust = torch.rand(5000, generator=generator)
    expected = graph.smooth(scores, 0.01, seen, trust)
    with on_a_card(monkeypatch):
        found = graph.smooth(scores, 0.01, seen, trust)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("patches", "k"), [(3, 3), (300, 5), (70, 1)])
def test_neighbours_are_those_of_the_host(patches: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(k)
    features, others = (torch.randn(count, 12, generator=generator) for count in (1000, patches))
    expected = nearest_patches(lambda rows: features[rows], 1000, others, k)
    monkeypatch.setattr("feature_gs_ros.affordance.nearest.CARD_ROWS", 300)
    monkeypatch.setattr("feature_gs_ros.affordance.nearest.CARD_COLUMNS", 64)
    with on_a_card(monkeypatch):
        found = nearest_patches(lambda rows: features[rows], 1000, others, k)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_nothing_mixes_with_the_host(rule: str, softmax: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors that are not the host's: an operation that takes both fails, as it does on a card."""
    extractor = Words(rule, softmax)
    expected = live_field(extractor).question().segmenter.ask(["red", "green"], ["blue"])
    with played_card(monkeypatch):
        live = live_field(extractor, PlayedBackend())
        found = live.question().segmenter.ask(["red", "green"], ["blue"])
        snapshot = live.snapshot().segmenter
        assert snapshot.field.features.device == CARD
        copied = snapshot.ask_many(["red", "blue"])
        example = snapshot.ask_example(snapshot.field.decoded(torch.tensor([3, 40])))
    assert all(answer.mask.device.type == "cpu" for answer in (*found, *copied, example))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.similarity, theirs.similarity, atol=1e-5, rtol=1e-5)
        assert torch.equal(ours.mask, theirs.mask)


@pytest.mark.parametrize("vote", ["majority", "distance"])
def test_affordances_are_those_of_the_host(vote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, field = field_of()
    generator, png = torch.Generator().manual_seed(0), torch.zeros(1, dtype=torch.uint8)
    patches = torch.randn(20, CHANNELS, generator=generator)
    shares = torch.rand(20, 2, generator=generator) / 2
    library = Library(field.extractor, -0.5).add(
        Source("one", ("handle", "rim"), "mug", png, png, patches.half(), shares.half())
    )

    def move(chosen: FeatureField) -> Transfer:
        return transfer(segmenter.gaussians, chosen, library, Settings(k=3, vote=vote))

    expected = move(field)
    with played_card(monkeypatch):
        found = move(field.on(CARD))
    torch.testing.assert_close(found.probability, expected.probability, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.similarity, expected.similarity, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.label, expected.label)
    assert torch.equal(found.abstained, expected.abstained)


class Untouchable:
    """Sums that nobody may ask; how wide they are is known."""

    channels = CHANNELS

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a status asks the device's sums for {name}")


class WatchedBackend(PlayedBackend):
    """Whose sums can't be asked once `untouchable` is set: they would wait for the card."""

    untouchable = False

    def accumulator(self, *arguments: Any) -> Any:
        backend, own = self, super().accumulator(*arguments)

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(Untouchable() if backend.untouchable else own, name)

        return Watched()


def test_a_status_asks_the_device_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage is that of the last views; memory is counted."""
    expected = live_field(Words("cosine"))
    saved = expected.snapshot().segmenter.field
    covered = saved.coverage(expected.gaussians)
    assert 0 < covered < 1
    with played_card(monkeypatch):
        backend = WatchedBackend()
        live = live_field(Words("cosine"), backend)
        with monkeypatch.context() as patch:
            patch.setattr(backend, "untouchable", True)
            assert live.coverage() == pytest.approx(covered)
            assert live.memory() > 0
            assert live.measured.card.name == CARD.type
        live.reset()
        assert live.coverage() == 0
        live.resume(saved)
        with monkeypatch.context() as patch:
            patch.setattr(backend, "untouchable", True)
            assert live.coverage() == pytest.approx(covered)


def test_a_saved_field_finds_no_room_on_a_card() -> None:
    """Asked of a file, it is an error that says what else there is."""
    _, field = field_of()

    class Short(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is Tensor.to:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return func(*args, **(kwargs or {}))

    with Short(), pytest.raises(OutOfMemoryError, match="--backend cpu"):
        field.on(CARD)


def test_a_field_that_finds_no_room_on_the_card_comes_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_field(Words("cosine"))
    expected = live.snapshot().segmenter.field.features
    empty = torch.empty

    def short(*arguments: Any, **options: Any) -> Tensor:
        if "device" in options:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return empty(*arguments, **options)

    other = live_field(Words("cosine"))
    with on_a_card(monkeypatch):
        monkeypatch.setattr(torch, "empty", short)
        field = other.snapshot().segmenter.field
    torch.testing.assert_close(field.features, expected)


def test_codes_are_decoded_where_they_lie() -> None:
    codec = fit_pca(torch.randn(50, 6), 3)
    assert codec.decode(torch.empty(4, 3, device="meta")).device.type == "meta"
    assert codec.encode(torch.empty(4, 6, device="meta")).device.type == "meta"
