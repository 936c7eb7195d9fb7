"""CLIP dense: every path against open_clip's own passes, where it is installed; words, templates, synonyms."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from extractor_weights import scene, seeded_state
from torch.nn import functional

from feature_gs_ros.extractors import extractor_of, make_extractor
from feature_gs_ros.extractors import templates as sentences
from feature_gs_ros.extractors.clip import ClipExtractor
from feature_gs_ros.extractors.clip_dense import cell_size, dense_features, dense_values
from feature_gs_ros.extractors.libraries import import_library, installed
from feature_gs_ros.extractors.network import normalised, resized_positions
from feature_gs_ros.extractors.text import PromptEncoder
from feature_gs_ros.extractors.weights import FOLDERS_VARIABLE, OFFLINE_VARIABLE
from tests.errors import raises

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
TINY = {
    "tiny-vit": {"image_size": 64, "layers": 3, "width": 128, "patch_size": 16},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "tiny-siglip": {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"},
}


# ---- words, without open_clip


def encoder(calls: list[list[str]], templates: tuple[str, ...]) -> PromptEncoder:
    """Embeds a text as (its length, 1)."""

    def encode(texts: list[str]) -> torch.Tensor:
        calls.append(texts)
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    return PromptEncoder(encode, templates)


def test_templates_and_synonyms_are_averaged_as_unit_vectors() -> None:
    calls: list[list[str]] = []
    embedding = encoder(calls, ("{}", "a {}"))(["mug | coffee cup"])
    assert calls == [["mug", "a mug", "coffee cup", "a coffee cup"]]
    each = functional.normalize(torch.tensor([[3.0, 1], [5, 1], [10, 1], [12, 1]]), dim=1)
    assert torch.allclose(embedding[0], functional.normalize(each.mean(dim=0), dim=0))


def test_a_repeated_prompt_is_not_encoded_again() -> None:
    calls: list[list[str]] = []
    encode = encoder(calls, ("{}",))
    first = encode(["mug", "drill"])
    assert torch.equal(encode(["drill", "mug", "drill"]), first[[1, 0, 1]])
    assert calls == [["mug"], ["drill"]]


def test_bad_prompts_and_templates_are_named() -> None:
    with raises("extractor.empty"):
        encoder([], ("{}",))([" | "])
    for templates in ((), ("a photo",)):
        with raises("extractor.value"):
            encoder([], templates)


def test_positions_resize_to_themselves_and_must_be_square() -> None:
    positions = torch.randn(1 + 16, 8)
    assert resized_positions(positions, 4, 4, "bicubic", True) is positions
    constant = resized_positions(torch.ones(17, 8), 3, 9, "bicubic", True)
    assert torch.allclose(constant, torch.ones(28, 8), atol=1e-6)
    with raises("extractor.unsupported"):
        resized_positions(torch.zeros(1 + 15, 8), 3, 5, "bicubic", True)


def test_pixels_are_normalised_by_channel() -> None:
    pixels = torch.tensor([0.0, 255.0, 51.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    found = normalised(pixels, (0.5, 0.25, 0.1), (0.2, 0.5, 0.4))
    assert torch.allclose(found, torch.tensor([-2.5, 1.5, 0.25]).view(1, 3, 1, 1).expand(2, 3, 4, 5))


def test_resized_positions_keep_their_rows_and_columns() -> None:
    """Positions that say their own row and column, twice as many rows: cell by cell, row by row."""
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    positions = torch.cat([torch.tensor([[9.0, 9.0]]), torch.stack([rows, columns], dim=2).reshape(16, 2)])
    resized = resized_positions(positions, 8, 4, "bilinear", False)
    assert resized[0].tolist() == [9.0, 9.0]
    grid = resized[1:].reshape(8, 4, 2)
    expected = [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]  # centres of half rows, the border's repeated
    assert torch.allclose(grid[:, :, 0], torch.tensor(expected)[:, None].expand(8, 4))
    assert torch.allclose(grid[:, :, 1], torch.arange(4.0).expand(8, 4))


def test_the_value_path_is_attention_over_a_cell_alone() -> None:
    """torch's own attention of one token to itself, whatever queries and keys say."""
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    torch.nn.init.normal_(attention.in_proj_bias)
    norm = torch.nn.LayerNorm(8)
    tokens = torch.randn(2, 5, 8)
    with torch.inference_mode():
        found = dense_values(SimpleNamespace(attn=attention, ln_1=norm), tokens)
        alone = norm(tokens).reshape(10, 1, 8)
        expected = attention(alone, alone, alone, need_weights=False)[0].reshape(2, 5, 8)
    assert torch.allclose(found, expected, atol=1e-5)


def test_without_open_clip_the_error_says_what_to_install() -> None:
    if installed("open_clip"):
        pytest.skip("open_clip_torch is installed")
    with raises("extractor.package", "open_clip", "feature_gs_ros[models]"):
        make_extractor("clip")


# ---- with open_clip


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not installed("open_clip"):
        pytest.skip("open_clip_torch is not installed")
    library: Any = import_library("open_clip", "open_clip_torch")
    folder = tmp_path_factory.mktemp("configs")
    for name, vision in TINY.items():
        dimension = 768 if "siglip" in name else 48
        config = {"embed_dim": dimension, "quick_gelu": True, "vision_cfg": vision, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
    library.add_model_config(folder)
    return library


def model_of(open_clip: Any, name: str, **options: object) -> Any:
    """The model with seeded weights; those of its text tower, too."""
    model = open_clip.create_model(name, pretrained=None, **options).eval()
    state = seeded_state({key: tuple(value.shape) for key, value in model.state_dict().items()}, 5)
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def checkpoint(open_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "tiny.pt"
    torch.save(model_of(open_clip, "tiny-vit").state_dict(), path)
    return path


@pytest.mark.slow
def test_plain_path_is_open_clips_tokens_at_any_size(open_clip: Any) -> None:
    """At another size, against open_clip's own model of that size with its own resizing of the positions."""
    visual = model_of(open_clip, "tiny-vit").visual
    for size in (64, 64), (96, 160), (32, 48):
        own = open_clip.create_model("tiny-vit", pretrained=None, force_image_size=size).eval()
        state = model_of(open_clip, "tiny-vit").state_dict()
        open_clip.model.resize_pos_embed(state, own)
        own.load_state_dict(state)
        own.visual.output_tokens = True
        pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            _, tokens = own.visual(pixels)
            expected = tokens @ own.visual.proj
            cells = dense_features(visual, pixels, value_path=False)
        assert cells.shape == (2, size[0] // 16, size[1] // 16, 48)
        assert float((cells.flatten(1, 2) - expected).abs().max()) < 1e-5


def test_value_path_is_attention_that_looks_at_itself_alone(open_clip: Any) -> None:
    """With a mask that leaves every token only itself, the last attention is its value path."""
    visual = model_of(open_clip, "tiny-vit").visual
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        x = visual._embeds(pixels)
        for block in visual.transformer.resblocks[:-1]:
            x = block(x)
        last = visual.transformer.resblocks[-1]
        alone = torch.full((17, 17), float("-inf")).fill_diagonal_(0)
        expected = visual.ln_post(last.attention(last.ln_1(x), attn_mask=alone))[:, 1:] @ visual.proj
        cells = dense_features(visual, pixels, value_path=True)
    assert float((cells.flatten(1, 2) - expected).abs().max()) < 1e-5


def test_towers_that_pool_by_attention_give_what_they_pool(open_clip: Any) -> None:
    """Where all cells are alike, pooling changes nothing: the pooled vector is every cell's."""
    resnet = model_of(open_clip, "tiny-resnet").visual
    resnet.attnpool.positional_embedding.data.zero_()
    maps = torch.randn(512, generator=torch.Generator().manual_seed(3)).reshape(1, -1, 1, 1)
    with torch.inference_mode():
        resnet.stem = lambda maps: maps
        resnet.layer1 = resnet.layer2 = resnet.layer3 = resnet.layer4 = torch.nn.Identity()
        cells = dense_features(resnet, maps.expand(1, -1, 2, 2), value_path=True)
        pooled = resnet.attnpool(maps.expand(1, -1, 2, 2))
    assert float((cells - pooled[:, None, None]).abs().max()) < 1e-4


@pytest.mark.slow
def test_siglip_of_timm_at_its_own_and_another_size(open_clip: Any) -> None:
    visual = open_clip.create_model("tiny-siglip", pretrained=None).eval().visual
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        native = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(4))
        tokens = visual.trunk.forward_features(native)
        cells = dense_features(visual, native, value_path=True)
        assert cells.shape == (1, 14, 14, 768)
        one = visual.head(visual.trunk.forward_head(tokens[:, 17:18]))
        assert float((cells[0, 1, 3] - one).abs().max()) < 1e-4
        assert dense_features(visual, pixels, value_path=True).shape == (1, 4, 6, 768)
    assert cell_size(visual) == 16


def test_the_extractor_end_to_end(open_clip: Any, checkpoint: Path) -> None:
    extractor = ClipExtractor(weights=checkpoint, model="tiny-vit", pixels=96 * 160)
    grid = extractor.extract(scene(192, 320))
    assert (grid.rows, grid.columns, grid.dimension) == (6, 10, 48)
    norms = torch.linalg.vector_norm(grid.values, dim=2)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)
    model = model_of(open_clip, "tiny-vit")
    tokens = open_clip.get_tokenizer("tiny-vit")([template.replace("{}", "mug") for template in sentences.CLIP])
    with torch.inference_mode():
        expected = functional.normalize(model.encode_text(tokens, normalize=True).mean(dim=0), dim=0)
    assert float((extractor.embed(["mug"])[0] - expected).abs().max()) < 1e-5
    assert float((extractor.embed(["mug"]) - extractor.embed(["drill"])).abs().max()) > 1e-3
    assert extractor.scores(grid.values.flatten(0, 1), extractor.embed(["mug", "drill"])).shape == (60, 2)
    plain = ClipExtractor(weights=checkpoint, model="tiny-vit", pixels=96 * 160, path="plain")
    assert plain.identity != extractor.identity
    assert float((plain.extract(scene(192, 320)).values - grid.values).abs().max()) > 1e-2
    assert extractor_of(extractor.identity, checkpoint).identity == extractor.identity
    half = ClipExtractor(weights=checkpoint, model="tiny-vit", pixels=96 * 160, precision="bfloat16")
    assert float((half.extract(scene(192, 320)).values.float() - grid.values).abs().max()) < 0.1


@pytest.mark.slow
def test_what_is_missing_or_wrong_is_named(
    open_clip: Any,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "void"))
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    for options, fault in [
        ({}, ("extractor.weights", "16", "224", "openai.safetensors", "599", "https://huggingface.co/")),
        ({"model": "ViT-L-14-quickgelu"}, ("extractor.weights", "openai.safetensors", "1,7")),
        ({"model": "ViT-X"}, ("extractor.unknown",)),
        ({"pretrained": "nobody"}, ("extractor.range",)),
        ({"path": "key", "weights": checkpoint}, ("extractor.unknown",)),
        ({"weights": checkpoint, "model": "tiny-vit", "pixels": 9}, ("extractor.range", "pixels=9")),
        ({"weights": checkpoint, "model": "tiny-vit", "templates": ["a photo"]}, ("extractor.value",)),
    ]:
        with raises(*fault):
            make_extractor("clip", **options)
    with raises("extractor.format", "tiny.pt", "tiny-resnet"):
        make_extractor("clip", weights=checkpoint, model="tiny-resnet").extract(scene(64, 64))
    for model in ("coca_ViT-B-32",):
        coca = open_clip.create_model(model, pretrained=None)
        with raises("extractor.unsupported"):
            dense_features(coca.visual, torch.zeros(1, 3, 64, 64), value_path=True)


def test_the_score_is_the_probability_beside_generic_words(open_clip: Any, checkpoint: Path) -> None:
    extractor = make_extractor("clip", weights=checkpoint, model="tiny-vit", pixels=64 * 64)
    features = 3 * functional.normalize(torch.randn(7, extractor.dimension), dim=1)  # the length is no matter
    prompts = extractor.embed(["mug", "drill"])
    generic = extractor.embed(["object", "things", "stuff", "texture"])
    scale = float(model_of(open_clip, "tiny-vit").logit_scale.detach().exp())
    unit = functional.normalize(features, dim=1)
    for column in range(2):
        logits = scale * torch.cat([unit @ prompts[column : column + 1].T, unit @ generic.T], dim=1)
        expected = torch.softmax(logits, dim=1)[:, 0]
        torch.testing.assert_close(extractor.scores(features, prompts)[:, column], expected, atol=1e-5, rtol=1e-4)
    cosine = make_extractor("clip", weights=checkpoint, model="tiny-vit", pixels=64 * 64, score="cosine")
    torch.testing.assert_close(cosine.scores(features, prompts), unit @ prompts.T, atol=1e-5, rtol=1e-4)
    assert (extractor.text_rule.threshold, cosine.text_rule.other) == (0.5, "other")


def test_the_field_says_the_score(open_clip: Any, checkpoint: Path) -> None:  # noqa: ARG001
    softmax = make_extractor("clip", weights=checkpoint, model="tiny-vit")
    cosine = make_extractor("clip", weights=checkpoint, model="tiny-vit", score="cosine")
    assert softmax.identity.preprocessing["score"] == "softmax"
    assert "score" not in cosine.identity.preprocessing  # as in fields from before there was a choice
    for extractor in (softmax, cosine):
        assert extractor_of(extractor.identity, checkpoint).identity == extractor.identity
    with raises("extractor.unknown"):
        make_extractor("clip", weights=checkpoint, model="tiny-vit", score="best")
