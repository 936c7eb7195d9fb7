"""LSeg: the network against the published code's numbers, both checkpoint layouts, the affine stages, words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map
from extractor_weights import DATA, published_shapes, scene, seeded_state
from safetensors.torch import load_file
from torch.nn import functional

from feature_gs_ros import rasterizer
from feature_gs_ros.extractors import extractor_of, make_extractor
from feature_gs_ros.extractors.libraries import import_library, installed
from feature_gs_ros.extractors.lseg import LSegExtractor
from feature_gs_ros.extractors.lseg_network import LSegNetwork, Shape, doubled
from tests.errors import raises

SMALL = Shape(128, 4, 2, (0, 1, 2, 3), (16, 24, 32, 40), features=24, outputs=20)
UNUSED = {
    "pretrained.model.norm.weight": torch.ones(128),
    "pretrained.model.norm.bias": torch.zeros(128),
    "pretrained.model.head.weight": torch.zeros(1000, 128),
    "pretrained.model.head.bias": torch.zeros(1000),
}


def small_state() -> dict[str, torch.Tensor]:
    shapes = {key: tuple(value.shape) for key, value in LSegNetwork(SMALL).state_dict().items()}
    return seeded_state(shapes, 7)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As lang-seg's Lightning module writes it."""
    path = tmp_path_factory.mktemp("lseg") / "demo_e200.ckpt"
    torch.save({"epoch": 200, "state_dict": {f"net.{k}": v for k, v in {**small_state(), **UNUSED}.items()}}, path)
    return path


def test_network_equals_the_published_code() -> None:
    goldens = load_file(DATA / "extractor_goldens.safetensors")
    network = LSegNetwork(SMALL).eval()
    network.load_state_dict(small_state())
    for height, width in [(384, 384), (96, 160), (480, 640)]:
        pixels = torch.from_numpy(scene(height, width)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            weight, bias = network.affine()
            cells = (doubled(network(pixels))[0].permute(1, 2, 0) @ weight) + bias
        step = max(1, height // 96)
        difference = cells[:: 4 * step, :: 5 * step] - goldens[f"lseg_{height}x{width}"]
        assert float(difference.abs().max()) < 1e-4


def test_keys_and_shapes_are_the_published_ones() -> None:
    published = published_shapes("lseg")
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in LSegNetwork().state_dict().items()}
    unused = {key for key in published if key.startswith(("pretrained.model.norm.", "pretrained.model.head."))}
    assert own == {key: shape for key, shape in published.items() if key not in unused}
    assert Shape.of({key: torch.empty(shape, device="meta") for key, shape in published.items()}) == Shape()


def test_both_checkpoint_layouts_and_half_precision_give_the_same(checkpoint: Path, tmp_path: Path) -> None:
    minimal = tmp_path / "lseg_minimal_e200.ckpt"
    torch.save({**small_state(), **UNUSED}, minimal)
    image = scene(64, 64)
    lightning = make_extractor("lseg", weights=checkpoint, pixels=64 * 64).extract(image).values
    assert lightning.shape == (32, 32, 20)
    assert torch.equal(make_extractor("lseg", weights=minimal, pixels=64 * 64).extract(image).values, lightning)
    half = make_extractor("lseg", weights=minimal, pixels=64 * 64, precision="bfloat16").extract(image).values
    assert half.dtype == torch.bfloat16
    assert float((half.float() - lightning).abs().max()) < 0.1


def test_cells_are_unit_vectors_that_lie_corner_on_corner(checkpoint: Path) -> None:
    grid = make_extractor("lseg", weights=checkpoint, pixels=128 * 192).extract(scene(240, 360))
    norms = torch.linalg.vector_norm(grid.values, dim=2)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)
    assert (grid.rows, grid.columns) == (64, 96)
    # Outer centres lie on the centres of the outer pixels of the network's 192×128 input.
    assert grid.left + (grid.right - grid.left) / grid.columns / 2 == pytest.approx(0.5 / 192)
    assert grid.bottom - (grid.bottom - grid.top) / grid.rows / 2 == pytest.approx(1 - 0.5 / 128)


def test_a_batch_is_its_images(checkpoint: Path) -> None:
    extractor = LSegExtractor(weights=checkpoint, pixels=64 * 96)
    images = [scene(64, 96), scene(64, 96)[::-1].copy()]
    for grid, image in zip(extractor.extract_batch(images), images, strict=True):
        assert torch.allclose(grid.values, extractor.extract(image).values, atol=1e-5)
    with raises("extractor.size"):
        extractor.extract_batch([scene(64, 96), scene(64, 64)])


def test_affine_stages_commute_with_back_projection(checkpoint: Path) -> None:
    """``Wᵀ(F A + 1 bᵀ) = (Wᵀ F) A + (Wᵀ 1) bᵀ``: on 24 numbers at a quarter of the resolution as on 20 afterwards."""
    linear = LSegExtractor(weights=checkpoint, features="linear", pixels=96 * 128)
    camera, pose = random_camera(2, 128, 96)
    view = rasterizer.view(random_map(2), camera, pose)
    grid = linear.extract(scene(96, 128))
    assert (grid.rows, grid.columns, grid.dimension) == (24, 32, 24)
    weight, bias = linear.affine
    applied_before = type(grid)(grid.values @ weight + bias, grid.left, grid.top, grid.right, grid.bottom)
    numerator, total = view.backproject(grid)
    expected, _ = view.backproject(applied_before)
    afterwards = numerator @ weight + total[:, None] * bias
    assert float((afterwards - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    # The scores of the field are those of the mean of the vectors in CLIP's space.
    seen = total > 1e-3
    words = functional.normalize(torch.randn(3, 20, generator=torch.Generator().manual_seed(0)), dim=1)
    scores = linear.scores((numerator / total[:, None])[seen], words)
    assert torch.allclose(scores, functional.normalize(expected[seen], dim=1) @ words.T, atol=1e-4)


def test_the_identity_makes_the_extractor_again(checkpoint: Path) -> None:
    extractor = make_extractor("lseg", weights=checkpoint, features="linear", template="a {}", pixels=64 * 64)
    again = extractor_of(extractor.identity, checkpoint)
    assert again.identity == extractor.identity
    assert again.identity.preprocessing["features"] == "linear"


def test_bad_options_and_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(2)}, other)
    damaged = tmp_path / "damaged.pth"
    torch.save({key: value for key, value in small_state().items() if "refinenet2.out_conv" not in key}, damaged)
    for options, fault in [
        ({"weights": checkpoint, "features": "fast"}, ("extractor.unknown", "fast")),
        ({"weights": checkpoint, "pixels": 10}, ("extractor.range", "pixels=10")),
        ({"weights": checkpoint, "pixels": 10**9}, ("extractor.range", "pixels=1000000000")),
        ({"weights": checkpoint, "precision": "int8"}, ("extractor.unknown", "int8")),
        ({"weights": checkpoint, "device": "abacus"}, ("extractor.unknown", "abacus")),
        ({"weights": checkpoint, "template": "no place"}, ("extractor.value", "no place")),
        ({"weights": other}, ("extractor.format", other.name)),
    ]:
        with raises(*fault):
            make_extractor("lseg", **options)
    with raises("extractor.format", "scratch.refinenet2.out_conv"):
        make_extractor("lseg", weights=damaged).extract(scene(32, 32))


# ---- words


@pytest.fixture(scope="module")
def open_clip() -> object:
    if not installed("open_clip"):
        pytest.skip("open_clip_torch is not installed")
    return import_library("open_clip", "open_clip_torch")


def test_words_without_open_clip_say_what_to_install(checkpoint: Path) -> None:
    if installed("open_clip"):
        pytest.skip("open_clip_torch is installed")
    with raises("extractor.package", "open_clip", "feature_gs_ros[models]"):
        make_extractor("lseg", weights=checkpoint).embed(["mug"])


@pytest.mark.slow
def test_text_tower_is_the_checkpoints_own(open_clip: object, tmp_path: Path) -> None:
    """The whole CLIP of open_clip, given the same weights, says the same."""
    state = seeded_state(published_shapes("lseg_text"), 3)
    path = tmp_path / "demo_e200.ckpt"
    half = {key: value.half() for key, value in state.items()}
    torch.save({"state_dict": {f"net.{key}": value for key, value in {**small_state(), **half}.items()}}, path)
    whole = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()  # type: ignore[attr-defined]
    whole.load_state_dict({k.removeprefix("clip_pretrained."): v.float() for k, v in half.items()}, strict=False)
    prompts = ["coffee mug", "other", "a power drill on the table"]
    tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")(prompts)  # type: ignore[attr-defined]
    with torch.inference_mode():
        expected = whole.encode_text(tokens, normalize=True)
    embeddings = make_extractor("lseg", weights=path).embed(prompts)
    assert float((embeddings - expected).abs().max()) < 1e-5
    assert float((embeddings[0] - embeddings[1]).abs().max()) > 1e-2


def test_a_checkpoint_without_text_says_so(open_clip: object, checkpoint: Path) -> None:  # noqa: ARG001
    with raises("extractor.format"):
        make_extractor("lseg", weights=checkpoint).embed(["mug"])


def test_numpy_views_are_taken(checkpoint: Path) -> None:
    extractor = make_extractor("lseg", weights=checkpoint, pixels=64 * 64)
    image = scene(64, 64)
    flipped = image[:, ::-1]
    assert torch.equal(extractor.extract(flipped).values, extractor.extract(np.ascontiguousarray(flipped)).values)
