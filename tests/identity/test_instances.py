"""Objects that nobody annotated: the operator spreads a sample's clusters; numbers out of range are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_camera

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.identity import instances as module
from feature_gs_ros.identity.answers import Identities
from feature_gs_ros.identity.instances import find_instances, instance_field
from feature_gs_ros.io.splats.gaussian_ply import save_ply
from feature_gs_ros.io.splats.registry import load_map
from tests.command_line import run
from tests.errors import raises

BLOBS, EACH = 7, 60


@pytest.fixture(scope="module")
def blobs() -> tuple[GaussianMap, FeatureField]:
    """Seven balls of Gaussians around the origin, each with a feature of its own."""
    rng = np.random.default_rng(5)
    corners = np.array([[x, y, z] for x in (-0.8, 0.8) for y in (-0.8, 0.8) for z in (-0.8, 0.8)])[:BLOBS]
    means = (corners[:, None] + rng.normal(0, 0.06, (BLOBS, EACH, 3))).reshape(-1, 3)
    features = np.repeat(np.eye(BLOBS), EACH, axis=0) + rng.normal(0, 0.01, (BLOBS * EACH, BLOBS))
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(means), torch.tensor([1.0, 0, 0, 0]).expand(len(means), 4),
        torch.full((len(means), 3), 0.03), torch.full((len(means),), 0.8), torch.zeros(len(means), 1, 3),
    )  # fmt: skip
    return gaussians, field_of(gaussians, torch.from_numpy(features).float())


def field_of(gaussians: GaussianMap, features: torch.Tensor, path: str = "") -> FeatureField:
    ones = torch.ones(len(gaussians), dtype=torch.int32)
    return FeatureField(
        features, ones.float(), ones, make_extractor("color").identity, Provenance(gaussians.checksum, path)
    )


def test_features_without_clusters_are_said_to_be_so(blobs: tuple[GaussianMap, FeatureField]) -> None:
    with raises("identity.no-clusters"):
        instance_field(blobs[1], torch.zeros(BLOBS * EACH, dtype=torch.int32))


def test_each_ball_is_one_object_however_many_are_rendered_at_once(
    blobs: tuple[GaussianMap, FeatureField], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each Gaussian has the cluster of most weight, worked out here with everything dense."""
    gaussians, field = blobs
    views = [rasterizer.view(gaussians, *random_camera(seed)) for seed in range(4)]
    options: dict[str, Any] = {"samples": 300, "smallest": 15}
    ids = find_instances(gaussians, field, views, **options)
    assert len(ids.unique()) == BLOBS
    assert all(len(ids[EACH * ball : EACH * (ball + 1)].unique()) == 1 for ball in range(BLOBS))
    for channels in (1, 3):
        monkeypatch.setattr(module, "CHANNELS", channels)
        assert torch.equal(find_instances(gaussians, field, views, **options), ids)
    samples = torch.arange(0, len(gaussians), 2)
    clusters = (torch.arange(len(samples)) * 5) % BLOBS
    carriers = torch.zeros(len(gaussians), BLOBS)
    carriers[samples, clusters] = 1
    for view, winners in zip(
        views, module.winning_clusters(views, len(gaussians), samples, clusters, BLOBS), strict=True
    ):
        weight, winner = view.render(carriers).max(dim=2)
        assert torch.equal(torch.from_numpy(winners), torch.where(weight > 0, winner, -1))


@pytest.mark.parametrize("book", ["orthogonal", "contrastive"])
def test_what_nobody_saw_is_of_no_object(
    book: str, blobs: tuple[GaussianMap, FeatureField], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third Gaussian: not counted as an object's, in no file of it, as little as a query selects it."""
    monkeypatch.setattr("feature_gs_ros.identity.codes.cache_folder", lambda _: tmp_path)
    if book == "contrastive":
        monkeypatch.setattr(module, "MAX_ORTHOGONAL", 1)
    save_ply(blobs[0], tmp_path / "map.ply")
    gaussians = load_map(tmp_path / "map.ply")
    seen = torch.arange(len(gaussians)) % 3 != 0
    field = replace(field_of(gaussians, blobs[1].features, str(tmp_path / "map.ply")), view_count=seen.int())
    views = [rasterizer.view(gaussians, *random_camera(seed)) for seed in range(4)]
    ids = find_instances(gaussians, field, views, smallest=15)
    assert torch.equal(ids > 0, seen)
    found = Identities(gaussians, instance_field(field, ids))
    assert torch.equal(found.confidence > 0, seen)
    assert torch.equal(found.labels, ids)

    field.save(tmp_path / "field")
    words = ["instances", tmp_path / "field", "--out", tmp_path / "out", "--smallest", 15, "--json"]
    told = json.loads(run(*words, "--extract", tmp_path / "parts").stdout)["objects"]
    assert sum(entry["gaussians"] for entry in told) == int(seen.sum())
    for entry in told:
        answer = json.loads(run("query", tmp_path / "out", entry["name"], "--json").stdout)
        assert answer["gaussians"] == entry["gaussians"] == len(load_map(tmp_path / "parts" / f"{entry['name']}.ply"))


@pytest.mark.parametrize(("largest", "objects"), [(1.0, 2), (0.3, 4)])
def test_a_cluster_of_more_than_its_share_comes_in_parts(largest: float, objects: int) -> None:
    """Two pairs of balls, each ball a quarter of the sample: pairs are the most stable clusters."""
    rng = np.random.default_rng(0)
    middles = np.array([[0.0, 0, 0], [0.22, 0, 0], [6, 0, 0], [6.22, 0, 0]])
    means = (middles[:, None] + rng.normal(0, 0.06, (4, EACH, 3))).reshape(-1, 3)
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(means), torch.tensor([1.0, 0, 0, 0]).expand(4 * EACH, 4), torch.full((4 * EACH, 3), 0.03),
        torch.full((4 * EACH,), 0.8), torch.zeros(4 * EACH, 1, 3),
    )  # fmt: skip
    field = field_of(gaussians, torch.ones(4 * EACH, 3))
    ids = find_instances(gaussians, field, [], samples=4 * EACH, smallest=15, largest=largest)
    assert len(ids.unique()) == objects
    assert len({int(ball.mode().values) for ball in torch.split(ids, EACH)}) == objects


@pytest.mark.slow
def test_no_object_is_numbered_as_what_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 255 objects: an id of 255 would have no name, and its Gaussians the next one's."""
    monkeypatch.setattr("feature_gs_ros.identity.codes.cache_folder", lambda _: tmp_path)  # no codes of other runs
    rng = np.random.default_rng(2)
    y, x = np.divmod(np.arange(264), 22)
    means = np.stack([x, y, 0 * x], axis=1)[:, None] + rng.normal(0, 0.01, (264, 15, 3))
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(means.reshape(-1, 3)), torch.tensor([1.0, 0, 0, 0]).expand(264 * 15, 4),
        torch.full((264 * 15, 3), 0.03), torch.full((264 * 15,), 0.8), torch.zeros(264 * 15, 1, 3),
    )  # fmt: skip
    field = field_of(gaussians, torch.ones(264 * 15, 3))
    ids = find_instances(gaussians, field, [], samples=264 * 15, smallest=10, largest=0.01)
    found = ids.unique().tolist()
    assert found == [*range(1, 255), *range(256, 266)]
    owners = instance_field(field, ids).decoded().argmax(dim=1)
    assert len(torch.stack([ids.long(), owners], dim=1).unique(dim=0)) == len(owners.unique()) == 264


@pytest.mark.parametrize(
    ("option", "code", "quoted"),
    [
        ({"smallest": 1}, "identity.too-few", "smallest=1"),
        ({"smallest": -5}, "identity.too-few", "smallest=-5"),
        ({"samples": 5, "smallest": 2}, "identity.too-few", "samples=5"),
        ({"samples": 0}, "identity.too-few", "samples=0"),
        ({"smallest": 10**12}, "identity.too-few", str(10**12)),
        ({"largest": float("nan")}, "identity.range", "largest=nan"),
        ({"largest": 0.0}, "identity.range", "largest=0.0"),
        ({"largest": float("inf")}, "identity.range", "largest=inf"),
        ({"place": float("nan")}, "identity.range", "place=nan"),
        ({"place": -1.0}, "identity.range", "place=-1.0"),
        ({"place": 1e300}, "identity.range", "place=1e+300"),
    ],
)
def test_numbers_out_of_range(
    option: dict[str, Any], code: str, quoted: str, blobs: tuple[GaussianMap, FeatureField]
) -> None:
    with raises(code, quoted):
        find_instances(*blobs, [], **option)


def test_too_few_gaussians_for_the_samples(blobs: tuple[GaussianMap, FeatureField]) -> None:
    few = GaussianMap.from_tensors(
        blobs[0].means[:8], blobs[0].quats_wxyz[:8], blobs[0].scales[:8], blobs[0].opacities[:8], blobs[0].sh[:8]
    )
    with raises("identity.too-few", "8 Gaussians"):
        find_instances(few, field_of(few, torch.eye(8)), [], samples=10, smallest=2)


def test_the_command_says_so_in_one_line(blobs: tuple[GaussianMap, FeatureField], tmp_path: Path) -> None:
    save_ply(blobs[0], tmp_path / "map.ply")
    field_of(load_map(tmp_path / "map.ply"), blobs[1].features, str(tmp_path / "map.ply")).save(tmp_path / "field")
    words = ["instances", tmp_path / "field", "--out", tmp_path / "out"]
    for wrong in (["--smallest", 1], ["--samples", 0], ["--largest", "nan"], ["--seed", 10**30], ["--seed", -1]):
        said = run(*words, *wrong, code=2)
        assert len(said.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert f"{BLOBS} objects" in run(*words, "--smallest", 15, "--seed", 2**63 - 1).stdout
