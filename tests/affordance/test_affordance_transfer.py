"""Transfer: neighbours against scikit-learn, votes by hand, abstention, limits, and the baseline that must agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_camera
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from feature_gs_ros import rasterizer
from feature_gs_ros.affordance import Library, Settings, Source, Transfer, find_regions, transfer, transfer_by_views
from feature_gs_ros.affordance import nearest as nearest_module
from feature_gs_ros.affordance.nearest import nearest_patches
from feature_gs_ros.affordance.transfer import agreement, count_votes, only
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.query.masks_3d import State
from tests.errors import raises

EXTRACTOR = ExtractorIdentity("axes")
PLAIN = Settings(k=1, smoothing_rate=0)


def line(count: int = 60) -> GaussianMap:
    """Small opaque Gaussians along x, a tenth apart; grey."""
    means = torch.zeros(count, 3)
    means[:, 0] = torch.arange(count) * 0.1
    return GaussianMap.from_tensors(
        means, torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4), torch.full((count, 3), 0.05), torch.full((count,), 0.9),
        torch.zeros(count, 1, 3),
    )  # fmt: skip


def field_of(gaussians: GaussianMap, features: torch.Tensor, seen: torch.Tensor | None = None) -> FeatureField:
    count = torch.ones(len(gaussians), dtype=torch.int32) if seen is None else seen.int()
    return FeatureField(features, count.float(), count, EXTRACTOR, Provenance(gaussians.checksum))


def source(
    name: str, affordances: tuple[str, ...], features: torch.Tensor, fractions: torch.Tensor, word: str = ""
) -> Source:
    png = torch.zeros(1, dtype=torch.uint8)
    return Source(name, affordances, word, png, png, features.half(), fractions.half())


def axes_library(floor: float = 0.5) -> Library:
    """Feature axis 0 is unmarked, 1 a handle, 2 a rim, from two sources."""
    one = source("one", ("handle",), torch.eye(4)[:2], torch.tensor([[0.0], [1.0]]), "mug")
    two = source("two", ("rim", "handle"), torch.eye(4)[[0, 2]], torch.tensor([[0.0, 0.0], [1.0, 0.0]]), "bowl")
    return Library(EXTRACTOR, floor).add(one).add(two)


# --- neighbours ---


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 90), patches=st.integers(1, 90), k=st.integers(1, 7))
def test_neighbours_are_those_of_scikit_learn(seed: int, count: int, patches: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)).astype(np.float32) * 10
    others = rng.normal(size=(patches, 6)).astype(np.float32) + 1
    k = min(k, patches)
    with pytest.MonkeyPatch.context() as patch:  # blocks smaller than the data, so that borders between them count
        patch.setattr(nearest_module, "ROWS", 17)
        patch.setattr(nearest_module, "COLUMNS", 13)
        similar, index = nearest_patches(
            lambda rows: torch.from_numpy(features)[rows], count, torch.from_numpy(others), k
        )
    distances, wanted = (
        NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(others).kneighbors(features)
    )
    assert np.allclose(1 - similar.numpy(), distances, atol=1e-5)
    assert (index.numpy() == wanted).mean() > 0.99  # all but ties to rounding
    assert (np.diff(similar.numpy(), axis=1) <= 0).all()


def test_neighbours_of_nothing() -> None:
    similar, index = nearest_patches(lambda rows: torch.zeros(0, 3)[rows], 0, torch.eye(3), 2)
    assert similar.shape == index.shape == (0, 2)
    similar, _ = nearest_patches(lambda rows: torch.zeros(2, 3)[rows], 2, torch.eye(3), 2)
    assert torch.equal(similar, torch.zeros(2, 2))  # a zero feature is like nothing


@pytest.mark.parametrize("spread", [0.5, 3.0])  # groups that are there, and patches like no others
def test_neighbours_by_groups_are_almost_all_the_exact_ones(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_module, "MIN_PRODUCTS", 1)
    monkeypatch.setattr(nearest_module, "GROUPED_ROWS", 700)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 24, generator=generator)
    patches = centres.repeat(60, 1) + spread * torch.randn(2400, 24, generator=generator)
    features = patches[torch.randint(2400, (3000,), generator=generator)] + 0.2 * torch.randn(3000, 24)
    similar, index = nearest_patches(lambda rows: features[rows], 3000, patches, 3)
    expected, wanted = nearest_patches(lambda rows: features[rows], 3000, patches, 3, exact=True)
    assert (index[:, 0] == wanted[:, 0]).float().mean() > 0.985
    assert (similar <= expected + 1e-5).all()
    torch.testing.assert_close(
        similar, torch.cosine_similarity(features[:, None], patches[index], dim=2), atol=1e-4, rtol=0
    )


def test_k_beyond_the_sources() -> None:
    with raises("affordance.range", "k=4"):
        nearest_patches(lambda rows: torch.zeros(2, 3)[rows], 2, torch.eye(3), 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite(value: float) -> None:
    features = torch.ones(5, 3)
    features[3, 1] = value
    with raises("affordance.not-finite"):
        nearest_patches(lambda rows: features[rows], 5, torch.eye(3), 1)
    with raises("affordance.not-finite"):
        nearest_patches(lambda rows: torch.eye(3)[rows], 3, features, 1)


# --- votes ---


def test_votes_by_hand() -> None:
    fractions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    similar, index = torch.tensor([[0.9, 0.85, 0.8]]), torch.tensor([[1, 2, 0]])
    assert torch.allclose(count_votes(similar, index, fractions, "majority"), torch.tensor([[0.5, 0.5]]))
    a, b, c = 1.0, np.exp(-1), np.exp(-2)  # cosines fall by one temperature each
    wanted = (a + b / 2) / (a + b + c)
    assert float(count_votes(similar, index, fractions, "distance")[0, 1]) == pytest.approx(wanted, rel=1e-5)


def test_each_gaussian_takes_what_it_is_like() -> None:
    gaussians = line(6)
    features = torch.tensor(
        [[3.0, 0, 0, 0], [0.1, 2, 0, 0], [0, 0.2, 5, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    )  # unmarked, handle, rim, like nothing, handle that nobody saw, seen without a feature
    seen = torch.tensor([True, True, True, True, False, True])
    result = transfer(gaussians, field_of(gaussians, features, seen), axes_library(), PLAIN)
    assert result.affordances == ("handle", "rim")
    assert result.label.tolist() == [0, 1, 2, 0, 0, 0]
    assert result.abstained.tolist() == [False, False, False, True, False, True]
    assert result.coverage == pytest.approx(5 / 6)
    assert float(result.similarity[1]) == pytest.approx(2 / np.hypot(0.1, 2), rel=1e-3)
    assert "40% of the Gaussians are like no patch" in result.message(gaussians)
    assert result.state("handle", gaussians) is State.NOT_FOUND  # one Gaussian isn't enough


def test_the_floor_is_the_librarys_or_the_one_given() -> None:
    gaussians = line(2)
    field = field_of(gaussians, torch.tensor([[0.0, 1, 0, 1], [0, 1, 0, 0]]))  # cosines ½√2 and 1
    assert transfer(gaussians, field, axes_library(0.7), PLAIN).label.tolist() == [1, 1]
    assert transfer(gaussians, field, axes_library(0.72), PLAIN).label.tolist() == [0, 1]
    assert transfer(gaussians, field, axes_library(0.72), replace(PLAIN, floor=0.6)).label.tolist() == [1, 1]


def test_the_best_patch_decides_who_abstains() -> None:
    """Of three neighbours only one is like the Gaussian: it speaks, by one vote of three."""
    gaussians = line(2)
    field = field_of(gaussians, torch.eye(4)[[1, 3]])
    result = transfer(gaussians, field, axes_library(0.5), Settings(k=3, smoothing_rate=0))
    assert result.abstained.tolist() == [False, True]
    assert float(result.probability[0, 1]) == pytest.approx(1 / 3)


def test_trust_is_the_square_of_the_lead() -> None:
    votes = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5], [0.2, 0.7, 0.1]])
    assert agreement(votes).tolist() == pytest.approx([0.04, 1.0, 0.0, 0.25])


def test_votes_do_not_walk_to_gaussians_that_nobody_asked_about() -> None:
    gaussians = line(30)
    among = torch.arange(30) < 20
    field = field_of(gaussians, torch.eye(4)[[1] * 30])
    result = transfer(gaussians, field, axes_library(), Settings(k=1, smoothing_rate=0.3), among=among)
    assert result.label.tolist() == [1] * 20 + [0] * 10
    assert result.probability[20:].tolist() == [[1.0, 0.0, 0.0]] * 10


def test_a_text_query_limits_gaussians_and_sources() -> None:
    gaussians = line(4)
    field = field_of(gaussians, torch.eye(4)[[1, 1, 2, 0]])
    among = torch.tensor([False, True, True, True])
    result = transfer(gaussians, field, axes_library(), PLAIN, among=among)
    assert result.label.tolist() == [0, 1, 2, 0]
    result = transfer(gaussians, field, axes_library(), PLAIN, among=among, object_word="Mug")
    assert result.affordances == ("handle",)
    assert result.label.tolist() == [0, 1, 0, 0]
    nothing = transfer(gaussians, field, axes_library(), Settings(k=1), among=torch.zeros(4, dtype=torch.bool))
    assert nothing.label.tolist() == [0, 0, 0, 0]
    assert find_regions(gaussians, field, nothing) == []
    assert (nothing.state("rim", gaussians), nothing.coverage) == (State.NOT_FOUND, 1.0)
    little = field_of(gaussians, field.features, torch.arange(4) < 1)
    nothing = transfer(gaussians, little, axes_library(), PLAIN, among=torch.zeros(4, dtype=torch.bool))
    assert (nothing.state("rim", gaussians), nothing.coverage) == (State.NOT_OBSERVED, pytest.approx(0.25))
    with raises("affordance.missing", "'fork'"):
        transfer(gaussians, field, axes_library(), PLAIN, object_word="fork")


def test_neighbouring_gaussians_settle_a_stray_one() -> None:
    gaussians = line(60)
    features = torch.eye(4)[[1] * 30 + [0] * 30]
    features[10] = torch.eye(4)[0]  # a hole in the handle
    features[20] = torch.eye(4)[3]  # and one that is like nothing
    field = field_of(gaussians, features)
    assert transfer(gaussians, field, axes_library(), PLAIN).label[[10, 20]].tolist() == [0, 0]
    settled = transfer(gaussians, field, axes_library(), Settings(k=1, smoothing_rate=0.3))
    assert settled.label[:29].tolist() == [1] * 29
    assert settled.label[31:].tolist() == [0] * 29
    assert not settled.abstained.any()
    assert torch.allclose(settled.probability.sum(dim=1), torch.ones(60), atol=1e-5)


def test_only_some_affordances() -> None:
    gaussians = line(3)
    field = field_of(gaussians, torch.eye(4)[[0, 1, 2]])
    both = transfer(gaussians, field, axes_library(), PLAIN)
    rim = only(both, ["rim"])
    assert rim.label.tolist() == [0, 0, 1]
    assert rim.affordances == ("rim",)
    with raises("affordance.missing", "'lid'"):
        only(both, ["lid"])


def some_transfer(probability: torch.Tensor) -> Transfer:
    """Of handle, blade, rim, with these fractions of the votes [N, 4]."""
    everyone = torch.ones(len(probability), dtype=torch.bool)
    return Transfer(("handle", "blade", "rim"), probability, torch.ones(len(probability)), ~everyone, everyone, 1.0, 0)


def test_only_keeps_what_won_by_fewer_than_half_of_the_votes() -> None:
    plurality = some_transfer(torch.tensor([[0.35, 0.40, 0.25, 0.0], [0.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0]]))
    assert plurality.label.tolist() == [1, 1, 0]
    handle = only(plurality, ["handle"])
    assert handle.label.tolist() == [1, 1, 0]
    assert float(handle.probability[0, 1]) == pytest.approx(0.40 / 0.75)
    assert only(plurality, ["blade"]).label.tolist() == [0, 0, 0]
    assert float(only(plurality, ["rim", "blade", "rim"]).probability[0, 2]) == 0.25


@settings(max_examples=60, deadline=None)
@given(
    votes=st.lists(st.tuples(*[st.integers(0, 5)] * 4).filter(any), min_size=1, max_size=30),
    names=st.lists(st.sampled_from(("handle", "blade", "rim")), min_size=1, max_size=3),
)
def test_only_keeps_exactly_the_winners(votes: list[tuple[int, ...]], names: list[str]) -> None:
    """Whatever is asked for, in whatever order; few votes are often level."""
    fractions = torch.tensor(votes, dtype=torch.float32)
    everything = some_transfer(fractions / fractions.sum(dim=1, keepdim=True))
    some = only(everything, names)
    for name in names:
        assert torch.equal(some.mask(name), everything.mask(name))
    assert bool((some.probability >= 0).all())
    assert torch.allclose(some.probability.sum(dim=1), torch.ones(len(votes)), atol=1e-5)


def test_a_codec_is_decoded() -> None:
    gaussians = line(3)
    mean = torch.tensor([1.0, 0, 0, 0])
    codec = Codec("pca", torch.eye(4)[1:3], torch.eye(4)[1:3], mean)
    field = replace(field_of(gaussians, torch.tensor([[0.0, 0], [9, 0], [0, 9]])), codec=codec)
    assert transfer(gaussians, field, axes_library(), PLAIN).label.tolist() == [0, 1, 2]


def test_refusals() -> None:
    gaussians = line(3)
    field = field_of(gaussians, torch.eye(4)[:3])
    with raises("affordance.empty"):
        transfer(gaussians, field, Library(EXTRACTOR, 0.5), PLAIN)
    with raises("affordance.mismatch", "'axes'", "'other'"):
        transfer(gaussians, replace(field, extractor=ExtractorIdentity("other")), axes_library(), PLAIN)
    with raises("field.mismatch"):
        transfer(line(4), field, axes_library(), PLAIN)
    with raises("affordance.range", "k=5"):
        transfer(gaussians, field, axes_library(), Settings())
    bad_rates: list[dict[str, object]] = [
        {"smoothing_rate": -1.0},
        {"smoothing_rate": 1e-300},
        {"smoothing_rate": float("inf")},
    ]
    for bad in ({"k": 0}, {"floor": 2.0}, {"floor": float("nan")}, {"vote": "loudest"}, *bad_rates):
        with pytest.raises(AffordanceError):
            Settings(**bad)  # type: ignore[arg-type]


# --- the baseline ---


@pytest.mark.slow
def test_the_baseline_votes_by_masked_gradients() -> None:
    """One view whose left half is a handle: each Gaussian goes to the half in which it has more weight."""
    rng = np.random.default_rng(3)
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(rng.normal(0, 0.7, (150, 3))), torch.from_numpy(rng.normal(size=(150, 4))),
        torch.full((150, 3), 0.08), torch.full((150,), 0.7), torch.zeros(150, 1, 3),
    )  # fmt: skip
    camera, pose = random_camera(3)
    view = rasterizer.view(gaussians, camera, pose)
    cells = torch.zeros(45, 70, 4)
    cells[:, :35, 1] = 1
    cells[:, 35:, 0] = 1
    grid = FeatureGrid(cells, interpolation="nearest")
    mask = torch.zeros(45, 70)
    mask[:, :35] = 1
    ones = FeatureGrid(torch.ones(1, 1, 1))
    _, inside = view.backproject(ones, mask)
    _, outside = view.backproject(ones, 1 - mask)
    field = field_of(gaussians, torch.zeros(150, 4))
    result: Transfer = transfer_by_views(gaussians, field, axes_library(), [(view, grid, None)], PLAIN)
    seen = (inside + outside) > 0
    assert int(seen.sum()) > 20
    assert torch.equal(result.asked, seen)
    assert torch.equal((result.label == 1)[seen], (inside > outside)[seen])
    assert torch.allclose(result.similarity[seen], torch.ones(int(seen.sum())), atol=1e-3)
    valid = torch.zeros(45, 70, dtype=torch.bool)
    valid[:, :35] = True  # beyond it the lens shows nothing
    half = transfer_by_views(gaussians, field, axes_library(), [(view, grid, valid)], PLAIN)
    assert torch.equal(half.asked, inside > 0)
    assert torch.equal(half.label == 1, inside > 0)


def test_the_baselines_views_vote_by_their_weight() -> None:
    """A Gaussian covers four times as many pixels from half as far: that view outvotes the other."""
    gaussians = line(1)
    camera = Camera(60, 40, 120.0, 120.0, 30.0, 20.0)
    votes, weights = [], []
    for distance, axis in ((1.0, 1), (2.0, 0)):  # a handle from near, unmarked from afar
        pose = np.eye(4)
        pose[2, 3] = distance
        cells = torch.zeros(4, 6, 4)
        cells[:, :, axis] = 1
        votes.append((rasterizer.view(gaussians, camera, pose), FeatureGrid(cells), None))
        weights.append(float(votes[-1][0].backproject(FeatureGrid(torch.ones(1, 1, 1)))[1]))
    result = transfer_by_views(gaussians, field_of(gaussians, torch.zeros(1, 4)), axes_library(), votes, PLAIN)
    assert weights[0] > 3 * weights[1]
    assert float(result.probability[0, 1]) == pytest.approx(weights[0] / sum(weights), rel=1e-4)
