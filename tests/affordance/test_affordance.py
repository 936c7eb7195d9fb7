"""Sources and their library: patches by covered fraction, files whole or refused, bad input that loses nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from feature_gs_ros.affordance import Library, Source, box_labels, make_source
from feature_gs_ros.affordance.patches import MAX_PATCHES, make_patches
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.core.feature_grid import FeatureGrid, sample
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.extractors.color import ColorExtractor
from tests.errors import raises

COLOR = make_extractor("color")


def picture(height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A red bar on grey, and its mask."""
    image = np.full((height, width, 3), 120, np.uint8)
    labels = np.zeros((height, width), np.uint8)
    image[40:56, 16:80] = (220, 20, 30)
    labels[40:56, 16:80] = 1
    return image, labels


def source(name: str = "bar", word: str = "handle", **options: object) -> Source:
    image, labels = picture()
    return make_source(image, labels, {1: word}, COLOR, name=name, **options)  # type: ignore[arg-type]


def library(*names: str) -> Library:
    made = Library.of(COLOR)
    for name in names:
        made = made.add(source(name))
    return made


# --- patches ---


def test_fractions_are_the_covered_area() -> None:
    """The fractions of all patches times their area are the mask's area, and a half covered patch has one half."""
    image, labels = picture()
    patches = make_patches(image, labels, 1, COLOR)
    assert len(patches.fractions) == 24 * 32  # 8 px cells, patches of 4 px, none thinned
    assert float(patches.fractions.sum()) * 16 == pytest.approx(np.count_nonzero(labels))
    half = np.zeros_like(labels)
    half[:, :66] = 1  # ends in the middle of a patch of 4 px
    fractions = make_patches(image, half, 1, COLOR).fractions.reshape(24, 32)
    assert torch.equal(fractions[:, 16], torch.full((24,), 0.5))
    assert torch.equal(fractions[:, :16], torch.ones(24, 16))
    assert torch.equal(fractions[:, 17:], torch.zeros(24, 15))


def test_ignored_pixels_count_for_nothing() -> None:
    """Nor does what lies beside a whole area of them: its features are of the area, too."""
    image, labels = picture()
    labels[:, 98:] = 255
    patches = make_patches(image, labels, 1, COLOR)
    # Columns 0 to 24 have at least half of their pixels; of these 19 to 24 lie within the margin of column 25.
    assert len(patches.fractions) == 24 * 19 + 4 * 1  # and the bar's last column of patches, 19, is marked
    assert float(patches.fractions.sum()) == 4 * 16


def test_fractions_are_of_the_pixels_that_count() -> None:
    """Of a patch of 16 pixels, two rows of ignored ones leave 8, of which 4 are marked."""
    image, labels = np.full((8, 8, 3), 120, np.uint8), np.zeros((8, 8), np.uint8)
    labels[0:2, 0:4] = 255
    labels[2:4, 0:2] = 1
    patches = make_patches(image, labels, 1, COLOR, turns=1)
    assert patches.fractions[:, 0].tolist() == [0.5, 0.0, 0.0, 0.0]


def test_a_thin_ignored_outline_costs_no_negatives() -> None:
    image, labels = picture()
    outlined = labels.copy()
    outlined[36:60, 12:84] = np.where(labels[36:60, 12:84] == 1, 1, 255)
    patches = make_patches(image, outlined, 1, COLOR)
    assert len(patches.fractions) == 24 * 32 - (6 * 18 - 4 * 16)


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
def test_turned_copies_agree_where_the_extractor_does_not_care(turns: int) -> None:
    """Mean colours of 8×8 px don't change when the image is turned: nor may the features."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (96, 128, 3)).astype(np.uint8)
    labels = np.zeros((96, 128), np.uint8)
    one = make_patches(image, labels, 1, COLOR, turns=1).features
    assert torch.allclose(make_patches(image, labels, 1, COLOR, turns=turns).features, one, atol=1e-3)


def test_turned_copies_keep_a_rectangle_beyond_the_image() -> None:
    """An extractor whose grid covers a padded square: the turned grids must come back to where they belong."""

    class Padded(ColorExtractor):
        def extract(self, image: np.ndarray, name: str = "") -> FeatureGrid:
            height, width = image.shape[:2]
            side = max(height, width)
            square = np.zeros((side, side, 3), np.uint8)
            square[:height, :width] = image
            grid = super().extract(square, name)
            return replace(grid, right=side / width, bottom=side / height)

    image, labels = picture()
    inside = slice(4, -4)
    plain = make_patches(image, labels, 1, Padded(), turns=1).features.reshape(24, 32, 3)[inside, inside]
    turned = make_patches(image, labels, 1, Padded(), turns=4).features.reshape(24, 32, 3)[inside, inside]
    assert torch.allclose(plain, turned, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_sampling_is_the_resampling_of_the_grid(seed: int) -> None:
    """Against torch's own bilinear sampling, inside the rectangle and beyond it."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(5, 7, 3, generator=generator)
    x, y = torch.rand(40, generator=generator) * 1.4 - 0.2, torch.rand(40, generator=generator) * 1.4 - 0.2
    grid = FeatureGrid(values, left=-0.1, top=0.05, right=1.3, bottom=0.9)
    at = torch.stack([(x + 0.1) / 1.4, (y - 0.05) / 0.85], dim=1) * 2 - 1
    wanted = torch.nn.functional.grid_sample(
        values.permute(2, 0, 1)[None], at[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, :, 0].T
    assert torch.allclose(sample(grid, x, y), wanted, atol=1e-4)


def test_large_images_are_reduced_and_thinned_away_from_the_mask() -> None:
    image = np.zeros((1500, 3000, 3), np.uint8)
    labels = np.zeros((1500, 3000), np.uint8)
    labels[700:800, 1000:1200] = 1
    patches = make_patches(image, labels, 1, make_extractor("color", cell=4), turns=1)
    assert 0.95 * MAX_PATCHES < len(patches.features) < 1.01 * MAX_PATCHES
    scale = (1280 / 3000) ** 2 / 4  # patches of 2 px in the reduced image
    assert float(patches.fractions.sum()) == pytest.approx(100 * 200 * scale, rel=0.02)


# --- library ---


def test_add_remove_merge_list(tmp_path: Path) -> None:
    two = library("a", "b")
    assert [entry.name for entry in two.sources] == ["a", "b"]
    assert two.affordances == ("handle",)
    assert len(two.remove("a")) == 1
    merged = two.merge(library("c"))
    assert [entry.name for entry in merged.sources] == ["a", "b", "c"]
    with raises("affordance.exists", "'a'"):
        two.add(source("a"))
    with raises("affordance.exists", "'a'"):
        two.merge(library("a"))
    assert two.add(source("a", "rim"), replace_existing=True).affordances == ("handle", "rim")
    with raises("affordance.missing", "'z'"):
        two.remove("z")
    two.save(tmp_path / "lib")
    assert len(two) == 2  # nothing above changed it


@pytest.mark.parametrize("folder", [False, True])
def test_round_trip_of_file_and_folder(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "library"
    if folder:
        path.mkdir()
    made = library("a", "b").add(source("c", "rim", object_word="coffee mug"))
    made.save(path)
    loaded = Library.load(path)
    assert loaded.extractor == made.extractor
    assert loaded.floor == pytest.approx(0.8 * COLOR.example_rule.threshold)
    for before, after in zip(made.sources, loaded.sources, strict=True):
        assert (before.name, before.affordances, before.object) == (after.name, after.affordances, after.object)
        assert torch.equal(before.features, after.features)
        assert torch.equal(before.fractions, after.fractions)
        image, labels = picture()
        assert np.array_equal(after.decoded_image(), image)
        assert np.array_equal(after.decoded_labels(), labels)
    made.remove("b").save(path)
    assert [entry.name for entry in Library.load(path).sources] == ["a", "c"]


def test_a_folder_loses_only_what_was_removed_from_the_library(tmp_path: Path) -> None:
    """Also where a file of several sources was put into the folder by hand."""
    library("a", "b", "c").save(tmp_path / "several.safetensors")
    Library.load(tmp_path).remove("b").save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "c.safetensors"]
    Library.load(tmp_path).add(source("a", "rim"), replace_existing=True).save(tmp_path)
    assert sorted(Library.load(tmp_path).affordances) == ["handle", "rim"]


@pytest.mark.parametrize("name", ["field", "a"])
def test_a_folder_keeps_what_is_no_library(tmp_path: Path, name: str) -> None:
    """A learned field, even one of a source's name: refused before anything is written."""
    field = tmp_path / f"{name}.safetensors"
    save_file({"features": torch.ones(3)}, field, metadata={"format": "feature_gs_ros field 1"})
    before = field.read_bytes()
    with raises("affordance.format", f"{name}.safetensors"):
        library("a", "b").save(tmp_path)
    assert field.read_bytes() == before
    assert list(tmp_path.iterdir()) == [field]


def test_a_folder_keeps_the_sources_of_another_library(tmp_path: Path) -> None:
    library("other").save(tmp_path / "other.safetensors")
    with raises("affordance.mismatch"):
        library("a", "b").remove("b").save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["other.safetensors"]
    library("a").merge(Library.load(tmp_path)).save(tmp_path)
    assert [entry.name for entry in Library.load(tmp_path).sources] == ["a", "other"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "library"
    library("a").save(path)
    whole = path.read_bytes()
    for keep in (0, 8, 200, len(whole) - 5):
        path.write_bytes(whole[:keep])
        with pytest.raises(AffordanceError) as caught:
            Library.load(path)
        assert caught.value.code == "affordance.unreadable"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(AffordanceError) as caught:
        Library.load(path)
    assert caught.value.code == "affordance.format"
    with raises("affordance.unreadable", "feature-gs affordance"):
        Library.load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with raises("affordance.empty"):
        Library.load(tmp_path / "empty")
    with raises("affordance.unwritable"):
        library("a").save("/proc/nowhere/library")


@pytest.mark.parametrize("damage", ["missing", "nan", "shape", "name"])
def test_a_file_whose_content_does_not_fit_is_refused(tmp_path: Path, damage: str) -> None:
    from safetensors import safe_open

    path = tmp_path / "library"
    library("a").save(path)
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if damage == "missing":
        del tensors["0.shares"]
    elif damage == "nan":
        tensors["0.features"][3] = float("nan")
    elif damage == "shape":
        tensors["0.shares"] = tensors["0.shares"][:5].contiguous()
    else:
        metadata["content"] = metadata["content"].replace('"name": "a"', '"name": "../a"')
    save_file(tensors, path, metadata=metadata)
    with raises("affordance.value" if damage != "name" else "affordance.name"):
        Library.load(path)


def test_another_extractor_is_refused() -> None:
    other = Library(ExtractorIdentity("imagenet-parts", "ab" * 32), 0.5)
    with raises("affordance.mismatch", "'color'", "'imagenet-parts'"):
        library("a").merge(other)
    wider = replace(source("w"), features=torch.zeros(4, 7, dtype=torch.float16))
    with raises("affordance.shape"):
        library("a").add(wider)


# --- bad input ---


def test_bad_annotations() -> None:
    image, labels = picture()
    with raises("affordance.size", "'s'", "64×96", "128×96"):
        make_source(image, labels[:, :64], {1: "handle"}, COLOR, name="s")
    with raises("affordance.empty"):
        make_source(image, np.zeros_like(labels), {1: "handle"}, COLOR, name="s")
    with raises("affordance.empty"):
        make_source(image, labels, {0: "none", 7: "handle"}, COLOR, name="s")
    with raises("affordance.range", "turns=5"):
        make_source(image, labels, {1: "handle"}, COLOR, name="s", turns=5)


@pytest.mark.parametrize("name", ["../s", "a/b", "a\\b", "", "  ", ".hidden", "a\nb", "x" * 101, "C:s"])
def test_names_that_are_paths(name: str) -> None:
    with raises("affordance.name|affordance.range"):
        source(name)
    with raises("affordance.name|affordance.range"):
        source("s", name)


def test_features_that_are_not_finite() -> None:
    class Broken(ColorExtractor):
        def extract(self, image: np.ndarray, name: str = "") -> FeatureGrid:
            grid = super().extract(image, name)
            grid.values[2, 2] = float("nan")
            return grid

    image, labels = picture()
    with raises("affordance.not-finite"):
        make_source(image, labels, {1: "handle"}, Broken(), name="s")


def test_boxes() -> None:
    labels = box_labels(10, 20, (2.0, 3.0, 6.0, 100.0))
    assert np.count_nonzero(labels) == 4 * 7
    assert labels[3, 2] == labels[9, 5] == 1
    for box in [(5, 5, 5, 8), (30, 2, 40, 8), (1, 2, float("nan"), 4), (1, 2, 3)]:
        with raises("affordance.empty|affordance.value"):
            box_labels(10, 20, box)
