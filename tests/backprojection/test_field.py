"""Fields on disk: whole or not at all, and never for another map or extractor."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_map
from safetensors.torch import save_file

from feature_gs_ros.backprojection.field import FORMAT, FeatureField, KnownView, Provenance
from feature_gs_ros.backprojection.shards import merge_fields
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.codec import random_projection
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.tensors import load_tensors
from tests.errors import raises

MAP = random_map(21, 50)
ALIGNMENT = Sim3(2.5, np.array([0.5, 0.5, 0.5, -0.5]), np.array([1.0, -2.0, 3.0]))


def some_field(seed: int = 0) -> FeatureField:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(50, generator=generator)
    weight[:10] = 0
    return FeatureField(
        torch.randn(50, 4, generator=generator) * (weight > 0)[:, None],
        weight,
        (weight > 0).int() * 3,
        ExtractorIdentity("imagenet", "ab" * 32, {"size": [640, 480], "scales": [1.0, 2.0]}),
        Provenance(MAP.checksum, "map.ply", "bag", ALIGNMENT, ("a", "b")),
    )


def test_round_trip(tmp_path: Path) -> None:
    for field in (some_field(), replace(some_field(), codec=random_projection(9, 4))):
        field.save(tmp_path / "field")
        loaded = FeatureField.load(tmp_path / "field")
        for name in ("features", "weight", "view_count"):
            assert torch.equal(getattr(loaded, name), getattr(field, name))
        assert loaded.extractor == field.extractor
        assert loaded.provenance.frames == ("a", "b")
        assert np.allclose(loaded.provenance.splat_from_map.matrix, ALIGNMENT.matrix)
        assert (loaded.codec is None) == (field.codec is None)
        if field.codec:
            assert field.codec.same_as(loaded.codec)
            assert torch.equal(loaded.decoded(), field.decoded())
    assert [path.name for path in tmp_path.iterdir()] == ["field"]


def test_another_map_or_extractor_is_refused() -> None:
    field = some_field()
    field.check_map(MAP)
    with raises("field.mismatch", "50", "map.ply"):
        field.check_map(random_map(22, 50))
    field.check_extractor(field.extractor)
    with raises("field.mismatch", "'imagenet'", "'color'"):
        field.check_extractor(ExtractorIdentity("color"))
    with raises("field.merge"):
        merge_fields([field, replace(field, provenance=Provenance("other"))])
    with raises("field.merge"):
        merge_fields([field, replace(field, codec=random_projection(4, 4))])


def test_the_checksum_is_of_geometry_and_opacity() -> None:
    assert MAP.checksum == random_map(21, 50).checksum
    assert replace(MAP, sh=MAP.sh + 1).checksum == MAP.checksum
    assert replace(MAP, opacities=MAP.opacities * 0.5).checksum != MAP.checksum


def test_prune_and_coverage() -> None:
    field = some_field()
    opacity = MAP.opacities
    assert field.coverage(MAP) == pytest.approx(float(opacity[10:].sum() / opacity.sum()))
    among = torch.zeros(50, dtype=torch.bool)
    among[5:15] = True
    assert field.coverage(MAP, among) == pytest.approx(float(opacity[10:15].sum() / opacity[5:15].sum()))
    assert field.coverage(MAP, torch.zeros(50, dtype=torch.bool)) == 0.0
    pruned, kept = field.prune(MAP)
    assert len(kept) == 40
    for name in ("features", "weight", "view_count"):
        assert torch.equal(getattr(pruned, name), getattr(field, name)[10:])
    pruned.check_map(kept)


@pytest.mark.parametrize("keep", [0, 7, 100, 900])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "field"
    some_field().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FieldError) as caught:
        FeatureField.load(path)
    assert caught.value.code == "field.unreadable"


def test_files_of_something_else(tmp_path: Path) -> None:
    with raises("field.unreadable"):
        FeatureField.load(tmp_path)
    with raises("field.unreadable", "feature-gs backproject"):
        FeatureField.load(tmp_path / "missing")
    save_file({"x": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(FieldError) as caught:
        FeatureField.load(tmp_path / "other")
    assert caught.value.code == "field.format"
    field = some_field()
    field.save(tmp_path / "whole")
    save_file({"features": field.features}, tmp_path / "half", metadata=load_tensors(tmp_path / "whole")[1])
    with raises("field.value", "'weight'"):
        FeatureField.load(tmp_path / "half")
    with raises("field.unwritable"):
        field.save("/proc/nowhere/field")


def damaged(folder: Path, **changes: object) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and content of a field's file with a codec and a view, some of them replaced."""
    field = replace(some_field(), codec=random_projection(9, 4))
    view = KnownView("a", Camera(64, 48, 60.0, 60.0, 32.0, 24.0), np.eye(4))
    field = replace(field, provenance=replace(field.provenance, views=(view,)))
    field.save(folder / "whole")
    tensors, metadata = load_tensors(folder / "whole")
    content = json.loads(metadata["content"])
    for path, value in changes.items():
        if isinstance(value, torch.Tensor):
            tensors[path] = value
            continue
        *above, key = path.split("__")
        table = content
        for step in above:
            table = table[step] if isinstance(table, dict) else table[int(step)]
        table[key] = value
    return tensors, content


@pytest.mark.parametrize(
    ("changes", "quoted"),
    [
        ({}, ""),
        ({"features": torch.tensor(1.0)}, "shapes"),
        ({"features": torch.zeros(50, 0)}, "field"),
        ({"features": torch.zeros(50, 4, 1)}, "field"),
        ({"features": torch.zeros(50, 4, dtype=torch.int32)}, "features"),
        ({"features": torch.full((50, 4), float("nan"))}, "features"),
        ({"features": torch.full((50, 4), float("-inf"), dtype=torch.float16)}, "features"),
        ({"weight": torch.full((50,), float("inf"))}, "weight"),
        ({"view_count": torch.ones(50)}, "view_count"),
        ({"features": torch.zeros(50, 3)}, "field"),
        ({"encoder": torch.zeros(5, 9)}, "field"),
        ({"encoder": torch.zeros(4)}, "field"),
        ({"decoder": torch.zeros(4, 8)}, "field"),
        ({"mean": torch.zeros(3)}, "field"),
        ({"mean": torch.full((9,), float("nan"))}, "mean"),
        ({"codec": "zip"}, "codec"),
        ({"codec": 3}, "codec"),
        ({"codec": [1]}, "codec"),
        ({"weight": torch.full((50,), -1.0)}, "field"),
        ({"view_count": torch.full((50,), -1, dtype=torch.int32)}, "field"),
        ({"teacher": [1]}, "'teacher'"),
        ({"teacher__name": 5}, "'name'"),
        ({"teacher__weights": None}, "'weights'"),
        ({"teacher__preprocessing": 1}, "'preprocessing'"),
        ({"provenance__views__0__size": [float("inf"), 48]}, "'size'"),
        ({"provenance__views__0__size": [10**9, 10**9]}, "field"),
        ({"provenance__views__0__size": [-64, 48]}, "field"),
        ({"provenance__views__0__size": ["x" * 10**6, 48]}, "'size'"),
        ({"provenance__views__0__intrinsics": [10**400, 1, 1, 1]}, "'intrinsics'"),
        ({"provenance__views__0__intrinsics": 5}, "'intrinsics'"),
        ({"provenance__views__0__camera_from_splat": [1]}, "field"),
        ({"provenance__views": {"0": 1}}, "'views'"),
        ({"provenance__splat_from_map": [1, 2]}, "splat_from_map"),
        ({"provenance__frames": "abc"}, "'frames'"),
        ({"provenance__earlier": [5]}, "'earlier'"),
    ],
)
def test_a_damaged_field_is_refused_when_it_is_read(changes: dict[str, object], quoted: str, tmp_path: Path) -> None:
    tensors, content = damaged(tmp_path, **changes)
    path = tmp_path / "field"
    save_file(tensors, path, metadata={"format": FORMAT, "content": json.dumps(content)})
    if not quoted:  # unchanged it is read
        assert FeatureField.load(path).dimension == 9
        return
    with raises("field.value", quoted) as caught:
        FeatureField.load(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.slow
def test_killed_while_saving_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """A real process, killed with SIGKILL somewhere in its saves: what stands there is always a whole field."""
    path = tmp_path / "field"
    some_field().save(path)
    code = (
        "import torch\nfrom dataclasses import replace\nfrom feature_gs_ros.backprojection.field import FeatureField\n"
        f"field = FeatureField.load({str(path)!r})\n"
        "big = replace(field, features=torch.rand(50, 400_000))\nprint('ready', flush=True)\n"
        f"while True: big.save({str(path)!r})\n"
    )
    for delay in (0.02, 0.13):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        assert FeatureField.load(path).features.shape[0] == 50
