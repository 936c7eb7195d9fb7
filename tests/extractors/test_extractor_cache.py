"""The cache of grids: the same grid again without a pass, never another's, bounded, and whole whatever happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map
from extractor_weights import scene
from safetensors.torch import save_file

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.extractors.cache import CachedExtractor
from feature_gs_ros.extractors.color import ColorExtractor
from tests.errors import raises


class Counting(ColorExtractor):
    """The colour extractor as if it had weights; counts its passes, and gives grids that cover a padded square."""

    def __init__(self, weights: str = "abc", cell: int = 8) -> None:
        super().__init__("rgb", cell)
        self.identity = replace(self.identity, weights=weights)
        self.passes = 0

    def extract(self, image: Image, name: str = "") -> FeatureGrid:
        self.passes += 1
        grid = super().extract(image, name)
        return FeatureGrid(grid.values.to(torch.bfloat16), bottom=16 / 9, interpolation="nearest")


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def images(count: int, side: int = 32) -> list[Image]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_a_grid_comes_back_as_it_was_without_a_pass(tmp_path: Path) -> None:
    image = images(1)[0]
    first = CachedExtractor(Counting(), tmp_path).extract(image, "a")
    extractor = Counting()
    again = CachedExtractor(extractor, tmp_path)
    grid = again.extract(image.copy(), "whatever the frame is called")
    assert extractor.passes == 0
    assert (again.hits, again.misses) == (1, 0)
    assert grid.values.dtype == torch.bfloat16
    assert torch.equal(grid.values, first.values)
    for part in ("left", "top", "right", "bottom", "interpolation"):
        assert getattr(grid, part) == getattr(first, part)


def test_other_images_sizes_weights_and_options_are_other_grids(tmp_path: Path) -> None:
    image = images(1)[0]
    CachedExtractor(Counting(), tmp_path).extract(image)
    changed = image.copy()
    changed[3, 5, 1] ^= 1
    same_bytes = image.reshape(16, 64, 3)
    for extractor, other in [
        (Counting(), changed),
        (Counting(), same_bytes),
        (Counting(weights="abd"), image),
        (Counting(cell=4), image),
    ]:
        CachedExtractor(extractor, tmp_path).extract(other)
        assert extractor.passes == 1
    assert len(files(tmp_path)) == 5


def test_the_longest_unused_go_first_and_the_limit_holds(tmp_path: Path) -> None:
    pictures = images(10)
    size = 300.0  # bytes of a file, about
    cache = CachedExtractor(Counting(), tmp_path, gigabytes=5.5 * size / 1e9)
    for stamp, picture in enumerate(pictures):
        cache.extract(pictures[0])  # used again and again: stays
        cache.extract(picture)
        for path in files(tmp_path):
            if path.stat().st_mtime > 1e9:  # written or used just now
                os.utime(path, (stamp, stamp))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 5.5 * size
    assert 2 <= len(files(tmp_path)) < 10
    extractor = Counting()
    survivors = CachedExtractor(extractor, tmp_path)
    survivors.extract(pictures[0])
    survivors.extract(pictures[-1])
    assert extractor.passes == 0
    survivors.extract(pictures[1])
    assert extractor.passes == 1


def test_a_grid_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = CachedExtractor(Counting(), tmp_path, gigabytes=1e-9)
    assert cache.extract(images(1)[0]).dimension == 3
    assert files(tmp_path) == []


def test_a_cache_that_cannot_be_written_costs_no_view(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every folder that a key may begin with is a file: nothing can be written, what was kept is still read."""
    pictures = images(3)
    CachedExtractor(Counting(), tmp_path).extract(pictures[0])
    for first in range(256):
        with suppress(FileExistsError):
            (tmp_path / f"{first:02x}").touch(exist_ok=False)
    extractor = Counting()
    cache = CachedExtractor(extractor, tmp_path)
    for picture in pictures:
        assert torch.equal(cache.extract(picture).values, Counting().extract(picture).values)
    assert extractor.passes == 2
    (warning,) = caplog.records  # said once, not a view
    assert "can't write to the cache" in warning.getMessage()


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, "cut", "other dimension"])
def test_damaged_files_are_made_anew(tmp_path: Path, damage: object) -> None:
    image = images(1)[0]
    expected = CachedExtractor(Counting(), tmp_path).extract(image)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    if damage == "other dimension":
        save_file({"values": torch.zeros(2, 2, 7)}, path)
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else whole[: len(whole) // 2])
    extractor = Counting()
    assert torch.equal(CachedExtractor(extractor, tmp_path).extract(image).values, expected.values)
    assert extractor.passes == 1
    assert len(path.read_bytes()) == len(whole)
    assert CachedExtractor(extractor, tmp_path).extract(image).interpolation == "nearest"
    assert extractor.passes == 1


def test_several_threads_share_a_folder(tmp_path: Path) -> None:
    """With a limit that makes them remove each other's files all the time."""
    pictures = images(12)
    expected = [Counting().extract(picture).values for picture in pictures]
    wrong: list[object] = []

    def work(order: Sequence[int]) -> None:
        cache = CachedExtractor(Counting(), tmp_path, gigabytes=1500e-9)
        try:
            wrong.extend(k for k in order if not torch.equal(cache.extract(pictures[k]).values, expected[k]))
        except Exception as error:
            wrong.append(error)

    orders = [np.random.default_rng(seed).integers(0, 12, 60).tolist() for seed in range(4)]
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".safetensors"]


def test_what_cannot_be_cached_is_named(tmp_path: Path) -> None:
    with raises("extractor.unsupported", "'color'"):
        CachedExtractor(make_extractor("color"), tmp_path)
    with raises("extractor.value"):
        CachedExtractor(Counting(), tmp_path, gigabytes=0)
    (tmp_path / "file").touch()
    with raises("extractor.unwritable"):
        CachedExtractor(Counting(), tmp_path / "file")


def test_learned_features_from_the_cache_make_the_same_field(tmp_path: Path) -> None:
    """The real EfficientNet: back-projected twice, the second time without a pass of the network."""
    gaussians = random_map(0)

    def field(extractor: Extractor) -> torch.Tensor:
        projector = BackProjector(gaussians, extractor.identity, extractor.dimension)
        for seed in range(3):
            camera, pose = random_camera(seed, 96, 64)
            image = np.roll(scene(64, 96), 7 * seed, axis=1)
            projector.add(rasterizer.view(gaussians, camera, pose), extractor.extract(image), name=str(seed))
        projector.flush()
        return projector.field().features

    bare = make_extractor("imagenet", pixels=96 * 64)
    first, second = CachedExtractor(bare, tmp_path), CachedExtractor(bare, tmp_path)
    expected = field(bare)
    assert torch.equal(field(first), expected)
    assert torch.equal(field(second), expected)
    assert (first.misses, second.hits, second.misses) == (3, 3, 0)
    assert torch.equal(second.embed(["mug"]), bare.embed(["mug"]))
    assert second.text_rule == bare.text_rule
