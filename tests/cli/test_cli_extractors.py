"""Extractors from the command line: their options, and the cache of what their networks gave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.extractors.options import parse_options
from tests.command_line import run
from tests.errors import raises

SMALL = "pixels=120000"


def backproject(scene: Path, out: Path, *more: object, code: int = 0) -> str:
    words = ("--alignment", scene / "alignment.yaml", "--every", 4, *more)
    return run("backproject", scene / "map.ply", scene / "stream", "--out", out, *words, code=code).stderr


@pytest.mark.slow
def test_an_option_reaches_the_extractor_and_the_field_remembers_it(small_scene: Path, tmp_path: Path) -> None:
    backproject(small_scene, tmp_path / "field", "--option", SMALL)
    assert FeatureField.load(tmp_path / "field").extractor.preprocessing["pixels"] == 120_000
    run("query", tmp_path / "field", "coffee mug")  # needs no option to find the same extractor again


@pytest.mark.slow
def test_a_cached_stream_needs_no_second_pass(small_scene: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    backproject(small_scene, tmp_path / "first", "--option", SMALL, "--cache", cache)
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        os.utime(path, (0, 0))
    backproject(small_scene, tmp_path / "second", "--option", SMALL, "--cache", cache)
    assert all(path.stat().st_mtime > 0 for path in files)  # a hit makes its file young again
    first, second = (FeatureField.load(tmp_path / name).features for name in ("first", "second"))
    assert torch.equal(first, second)
    backproject(small_scene, tmp_path / "third", "--option", "pixels=90000", "--cache", cache)
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 2 * len(files)


def test_values_are_yaml() -> None:
    options = parse_options(["pixels=3", "model=vits14", "templates=['a {}', 'the {}']", "hub=/a=b"])
    assert options == {"pixels": 3, "model": "vits14", "templates": ["a {}", "the {}"], "hub": "/a=b"}


@pytest.mark.parametrize("words", [["pixels"], ["=3"], ["a b=3"], ["a=1", "a=2"], ["a=[1"]])
def test_what_is_no_option(words: list[str]) -> None:
    with raises("extractor.duplicate|extractor.option|extractor.value", "--option"):
        parse_options(words)


@pytest.mark.parametrize(
    ("extractor", "option", "message"),
    [
        ("color", "cell=abc", "the option cell=abc of the extractor 'color' is not a whole number"),
        ("color", "cell=2.5", "is not a whole number"),
        ("color", "cell=true", "is not a whole number"),
        ("color", "cell=", "cell=None of the extractor 'color' is not a whole number"),
        ("color", "space=2024-01-31", "is not text; text is quoted: space='\"2024-01-31\"'"),
        ("color", "cell=2024-13-45", "is not YAML"),
        ("imagenet-parts", "cell=.nan", "is not a number"),
        ("imagenet", "pixels=many", "is not a whole number"),
        ("precomputed", "folder=5", "is not text or a path; text is quoted: folder='\"5\"'"),
        ("precomputed", "folder=[a]", "is not text or a path"),
        ("clip", "templates=a {}", "is not a list [text, …]"),
        ("identity", "classes={1: 5}", "needs the option codes, dimension"),
    ],
)
def test_an_option_of_another_type_is_one_line(extractor: str, option: str, message: str, tmp_path: Path) -> None:
    words = ("map.ply", "stream", "--out", tmp_path / "field", "--extractor", extractor, "--option", option)
    said = run("backproject", *words, code=2).stderr
    assert message in said
    assert len(said.splitlines()) == 1


def test_numbers_are_what_the_extractor_asks_for() -> None:
    """YAML 1.1 reads 1e5 as text."""
    pixels = make_extractor("imagenet", **parse_options(["pixels=1e5"])).identity.preprocessing["pixels"]
    assert isinstance(pixels, int)
    assert pixels == 100_000
    assert make_extractor("imagenet-parts", **parse_options(["cell=12"])).identity.preprocessing["cell"] == 12
    with raises("extractor.value"):
        make_extractor("labels", classes={"mug": "mug"})
    with raises("extractor.option"):
        make_extractor("labels", classes={"1": 5})


def test_an_option_that_the_extractor_lacks(small_scene: Path, tmp_path: Path) -> None:
    message = backproject(small_scene, tmp_path / "field", "--option", "colour=red", code=2)
    assert "colour" in message
    assert "pixels" in message  # what it has
    assert not (tmp_path / "field").exists()
