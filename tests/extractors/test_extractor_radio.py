"""RADIO: NVIDIA's own code's numbers on seeded weights, both layouts of weights, heads, attention, words, judging."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from extractor_weights import DATA, scene, seeded_state
from safetensors.torch import load_file, save_file
from torch import Tensor

from feature_gs_ros.extractors import extractor_of, make_extractor, radio
from feature_gs_ros.extractors import templates as sentences
from feature_gs_ros.extractors.base import image_judge
from feature_gs_ros.extractors.libraries import import_library, installed
from feature_gs_ros.extractors.radio import ADAPTORS, MODELS, RadioExtractor, TextModel
from feature_gs_ros.extractors.radio_network import RadioHead, RadioNetwork, RadioShape, attention_window
from feature_gs_ros.extractors.weights import FOLDERS_VARIABLE, OFFLINE_VARIABLE, WeightsFile
from tests.errors import raises

# timm's vit_tiny_patch16_224 with RADIO's patch generator, three teachers and five registers.
SHAPE = RadioShape(192, 12, 768, 16, 32, 8, layer_scale=False, final_norm=False)
HIDDEN, OUTPUTS = 96, 72
TEACHERS = [{"name": name, "type": "x"} for name in ("clip", "siglip2-g", "sam")]
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def published(layout: str) -> dict[str, Tensor]:
    """Keys as in NVIDIA's checkpoints ("hub") or in their model.safetensors ("page")."""
    image = seeded_state(shapes_of(RadioNetwork(SHAPE)), 3)
    head = seeded_state(shapes_of(RadioHead(SHAPE.width, HIDDEN, OUTPUTS, 2)), 4)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (radio.CLIP_MEAN, radio.CLIP_DEVIATION))
    prefixes = ("base_model.", "_heads.siglip2-g.", "input_conditioner.")
    if layout == "page":
        prefixes = ("radio_model.model.", "radio_model.adaptors.siglip2-g.head_mlp.", "radio_model.input_conditioner.")
    state = {prefixes[0] + key: value for key, value in image.items()}
    state |= {prefixes[1] + key: value for key, value in head.items()}
    return state | {f"{prefixes[2]}norm_mean": mean, f"{prefixes[2]}norm_std": deviation}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("radio") / "c-radio_v3-b_half.pth.tar"
    torch.save({"state_dict": published("hub"), "args": argparse.Namespace(teachers=TEACHERS)}, path)
    return path


@pytest.fixture(scope="module")
def goldens() -> dict[str, Tensor]:
    return load_file(DATA / "extractor_goldens.safetensors")


def extractor(weights: Path, height: int = 224, width: int = 224, **options: Any) -> RadioExtractor:
    return RadioExtractor(weights, pixels=height * width, device="cpu", **options)


# ---- the published code


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["plain", "kk", "self-correlation"])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (128, 320)])
def test_tokens_and_language_features_are_those_of_the_published_code(
    checkpoint: Path, goldens: dict[str, Tensor], attention: str, height: int, width: int
) -> None:
    """NVIDIA's network, and RayFronts' and RADSeg's last block in it, on the same weights and image."""
    image, name = scene(height, width), f"radio_{attention}_{height}x{width}"
    bare = extractor(checkpoint, height, width, adaptor="none", attention=attention).extract(image).values
    assert tuple(bare.shape) == (height // 16, width // 16, 192)
    assert float((bare[::3, ::3, ::24] - goldens[name]).abs().max()) < 1e-4
    for features in ("linear", "backbone"):
        spoken = extractor(checkpoint, height, width, attention=attention, features=features)
        grid = spoken.extract(image)
        words = spoken.in_text_space(grid.values.flatten(0, 1)).reshape(grid.rows, grid.columns, OUTPUTS)
        assert float((words[::3, ::3, ::9] - goldens[f"{name}_siglip2-g"]).abs().max()) < 1e-4
    unit = extractor(checkpoint, height, width, attention=attention).extract(image).values
    assert float((unit - torch.nn.functional.normalize(words, dim=2)).abs().max()) < 1e-5


def test_whole_images_are_the_published_summary(checkpoint: Path, goldens: dict[str, Tensor]) -> None:
    expected = torch.nn.functional.normalize(goldens["radio_summary_512x512_siglip2-g"], dim=0)
    assert float((extractor(checkpoint).embed_images([scene(512, 512)])[0] - expected).abs().max()) < 1e-5


@pytest.mark.slow
def test_the_safetensors_of_the_models_page_are_the_same_network(checkpoint: Path, tmp_path: Path) -> None:
    save_file(published("page"), tmp_path / "model.safetensors")
    with raises("extractor.weights", "config.json"):
        extractor(tmp_path / "model.safetensors")
    assert extractor(tmp_path / "model.safetensors", adaptor="none").dimension == 192
    config = {"args": {"teachers": TEACHERS}, "adaptor_configs": {"siglip2-g": {"head_idx": 1}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    page, hub = extractor(tmp_path / "model.safetensors"), extractor(checkpoint)
    assert torch.equal(page.extract(scene(64, 96)).values, hub.extract(scene(64, 96)).values)
    assert torch.equal(page.embed_images([scene(30, 40)]), hub.embed_images([scene(30, 40)]))


# ---- its parts


def test_the_last_linear_layer_commutes_with_back_projection(checkpoint: Path) -> None:
    """A mean of cells, then the layer, is the layer, then the mean; and so it is for any shares that sum to one."""
    linear = extractor(checkpoint, features="linear")
    cells = linear.extract(scene(224, 224)).values.flatten(0, 1)
    shares = torch.rand(5, len(cells), generator=torch.Generator().manual_seed(0))
    shares /= shares.sum(dim=1, keepdim=True)
    assert torch.allclose(linear.in_text_space(shares @ cells), shares @ linear.in_text_space(cells), atol=1e-4)


def test_the_window_falls_off_with_distance_and_leaves_other_tokens_alone() -> None:
    window = attention_window(3, 5, 2)
    assert window.shape == (17, 17)
    assert float(window[:2].abs().max()) == float(window[:, :2].abs().max()) == 0
    cells = window[2:, 2:].reshape(3, 5, 3, 5)
    assert float(cells[1, 2, 1, 2]) == 1
    assert float(cells[0, 0, 2, 3]) == pytest.approx(2.718281828 ** (-(2**2 + 3**2) / (2 * 7.0**2)))


def test_normalised_features_are_shifted_and_turned(checkpoint: Path, tmp_path: Path) -> None:
    mean, turn = torch.randn(192), torch.linalg.qr(torch.randn(192, 192))[0]
    state = published("hub") | {"_feature_normalizer.mean": mean, "_feature_normalizer.tx": turn}
    torch.save({"state_dict": state, "args": argparse.Namespace(teachers=TEACHERS)}, tmp_path / "w.pth.tar")
    plain = extractor(checkpoint, adaptor="none").extract(scene(64, 64)).values
    found = extractor(tmp_path / "w.pth.tar", adaptor="none").extract(scene(64, 64)).values
    assert torch.allclose(found, (plain - mean) @ turn.T, atol=1e-3)


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1152, 16), (1280, 16)])
def test_published_widths_have_their_number_of_heads(width: int, heads: int) -> None:
    shape = RadioShape(width, 2, 4 * width, 16, 128, 8, layer_scale=True, final_norm=True)
    with torch.device("meta"):
        network = RadioNetwork(shape)
    assert RadioShape.of(network.state_dict()) == shape
    assert shape.heads == heads


# ---- words


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny text tower in the place of SigLIP 2's."""
    if not installed("open_clip"):
        pytest.skip("open_clip_torch is not installed")
    open_clip: Any = import_library("open_clip", "open_clip_torch")
    folder = tmp_path_factory.mktemp("words")
    config = {"embed_dim": OUTPUTS, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}}
    (folder / "tiny-words.json").write_text(json.dumps({**config, "text_cfg": TEXT}))
    open_clip.add_model_config(folder)
    model = open_clip.create_model("tiny-words", pretrained=None).eval()
    model.load_state_dict(seeded_state(shapes_of(model), 6) | {"logit_scale": torch.tensor(2.5)})
    torch.save(model.state_dict(), folder / "tiny.pt")
    with pytest.MonkeyPatch.context() as patch:
        wanted = WeightsFile("tiny.pt", "https://example.org", 1, "MIT")
        patch.setitem(ADAPTORS, "siglip2-g", TextModel("tiny-words", wanted, sentences.SIGLIP))
        yield {"model": model, "file": folder / "tiny.pt", "open_clip": open_clip}


def test_words_are_the_text_models_at_its_temperature(checkpoint: Path, words: Any) -> None:
    spoken = extractor(checkpoint, text_weights=words["file"])
    tokens = words["open_clip"].get_tokenizer("tiny-words")(["This is a photo of mug."])
    with torch.inference_mode():
        expected = words["model"].encode_text(tokens, normalize=True)
    mug = spoken.embed(["mug"])
    assert float((mug - expected).abs().max()) < 1e-5
    cells = spoken.extract(scene(64, 96)).values.flatten(0, 1)
    generic = spoken.embed(sentences.GENERIC_WORDS)
    logits = words["model"].logit_scale.detach().exp() * cells @ torch.cat([mug, generic]).T
    assert torch.allclose(spoken.scores(cells, mug)[:, 0], torch.softmax(logits, dim=1)[:, 0], atol=1e-5)
    lengths = 3 * cells  # of a Gaussian that more was seen of
    assert torch.allclose(spoken.scores(lengths, mug), spoken.scores(cells, mug), atol=1e-5)
    cosine = extractor(checkpoint, text_weights=words["file"], score="cosine")
    assert torch.allclose(cosine.scores(cells, mug), cells @ mug.T, atol=1e-5)


def test_it_judges_whole_images_only_with_words(checkpoint: Path, words: Any) -> None:
    spoken = extractor(checkpoint, text_weights=words["file"])
    assert image_judge(spoken) is spoken
    judged = spoken.judge([scene(50, 70)], "mug")
    assert torch.allclose(judged.log_probabilities.exp().sum(dim=1), torch.ones(1), atol=1e-5)
    bare = extractor(checkpoint, adaptor="none")
    assert image_judge(bare) is None
    with raises("prompt.unknown"):
        bare.embed(["mug"])


# ---- options and faults


def test_identity_makes_the_extractor_again(checkpoint: Path) -> None:
    for options in ({}, {"adaptor": "none"}, {"features": "linear", "attention": "self-correlation"}):
        made = extractor(checkpoint, **options)
        assert extractor_of(made.identity, checkpoint).identity == made.identity
    assert extractor(checkpoint).identity.preprocessing["attention"] == "kk"
    assert extractor(checkpoint, adaptor="none").identity.preprocessing["attention"] == "plain"
    assert extractor(checkpoint, features="linear").dimension == HIDDEN
    half = extractor(checkpoint, precision="bfloat16").extract(scene(64, 64)).values
    assert half.dtype == torch.bfloat16


def test_the_model_is_told_by_its_files_name(checkpoint: Path, tmp_path: Path) -> None:
    assert extractor(checkpoint, adaptor="none").identity.preprocessing["model"] == "c-radio_v3-b"
    for name, wanted in MODELS.items():
        path = tmp_path / wanted.name
        path.symlink_to(checkpoint)
        assert extractor(path, adaptor="none").identity.preprocessing["model"] == name
        assert "commercial use allowed" in wanted.licence


def test_what_is_missing_or_wrong_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "void"))
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    other = tmp_path / "other.pth.tar"
    torch.save({"state_dict": published("hub"), "args": argparse.Namespace(teachers=TEACHERS[:1])}, other)
    spectral = tmp_path / "spectral.pth.tar"
    torch.save({"base_model.blocks.0.attn.qkv.parametrizations.weight.original": torch.zeros(2)}, spectral)
    torch.save({"base_model.x": torch.zeros(2)}, tmp_path / "none.pth.tar")
    for options, fault in [
        ({}, ("extractor.weights", "c-radio_v3-b_half.pth.tar", "196 MB", "https://huggingface.co/nvidia/C-RADIOv3-B")),
        ({"model": "radio_v9"}, ("extractor.unknown", "radio_v9", "c-radio_v3-b")),
        ({"weights": checkpoint, "adaptor": "sam9"}, ("extractor.unknown", "sam9", "siglip2-g, clip, none")),
        ({"weights": checkpoint, "attention": "qq"}, ("extractor.unknown", "qq", "kk, self-correlation, plain")),
        ({"weights": checkpoint, "features": "x"}, ("extractor.unknown", "unit, linear, backbone")),
        ({"weights": checkpoint, "adaptor": "clip"}, ("extractor.weights|extractor.unknown", "'clip'")),
        ({"weights": other}, ("extractor.unknown", "'siglip2-g'", "clip")),
        ({"weights": spectral}, ("extractor.weights", "spectral.pth.tar")),
        ({"weights": tmp_path / "none.pth.tar"}, ("extractor.weights", "none.pth.tar")),
    ]:
        with raises(*fault):
            make_extractor("radio", **options)
