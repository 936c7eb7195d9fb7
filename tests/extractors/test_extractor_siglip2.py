"""SigLIP 2 by open_clip: the last block's values, its own temperature and bias, words of any language, whole images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from extractor_weights import scene, seeded_state
from torch.nn import functional

from feature_gs_ros.extractors import extractor_of, make_extractor
from feature_gs_ros.extractors import templates as sentences
from feature_gs_ros.extractors.base import image_judge
from feature_gs_ros.extractors.clip_dense import dense_features, last_values
from feature_gs_ros.extractors.libraries import import_library, installed
from feature_gs_ros.extractors.open_vocabulary import RIVALS
from feature_gs_ros.extractors.siglip2 import DEFAULT_MODEL, DEFAULT_WEIGHTS, Siglip2Extractor
from feature_gs_ros.extractors.text import PromptEncoder
from feature_gs_ros.extractors.weights import FOLDERS_VARIABLE, OFFLINE_VARIABLE
from tests.errors import raises

MODEL = "tiny-siglip2"
LENGTH = 64  # tokens of a text
CORPUS = ["this is a photo of coffee mug", "tasse à café", "杯子", "object things stuff texture", *RIVALS]


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    for library in ("open_clip", "timm", "transformers", "tokenizers"):
        if not installed(library):
            pytest.skip(f"{library} is not installed")
    library = import_library("open_clip", "open_clip_torch")
    timm: Any = import_library("timm", "timm")

    def vit_tiny_siglip2_for_tests(pretrained: bool = False, **options: Any) -> Any:
        assert not pretrained
        small = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3, "class_token": False}
        kept = {key: value for key, value in options.items() if key in ("num_classes", "global_pool")}
        return timm.models.VisionTransformer(**{**small, **kept})

    timm.models.register_model(vit_tiny_siglip2_for_tests)
    text = {"context_length": LENGTH, "vocab_size": 400, "width": 48, "heads": 3, "layers": 2, "pool_type": "last"}
    text |= {"no_causal_mask": True, "proj_bias": True, "hf_tokenizer_name": "nobody/tiny"}
    vision = {"image_size": 64, "timm_model_name": "vit_tiny_siglip2_for_tests", "timm_pool": "map"}
    config = {
        "embed_dim": 48,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {**vision, "timm_model_pretrained": False, "timm_proj": "none"},
        "text_cfg": {**text, "tokenizer_kwargs": {"clean": "canonicalize"}},
    }
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{MODEL}.json").write_text(json.dumps(config))
    library.add_model_config(folder)
    return library


@pytest.fixture(scope="module")
def files(open_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights and a tokenizer of a few words and all bytes."""
    tokenizers, transformers = (import_library(name, name) for name in ("tokenizers", "transformers"))
    folder = tmp_path_factory.mktemp("siglip2")
    torch.save(model(open_clip).state_dict(), folder / "tiny.pt")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(folder)
    return folder


def model(open_clip: Any) -> Any:
    network = open_clip.create_model(MODEL, pretrained=None).eval()
    state = seeded_state({key: tuple(value.shape) for key, value in network.state_dict().items()}, 9)
    state |= {"logit_scale": torch.tensor(2.0), "logit_bias": torch.tensor(-1.5)}
    network.load_state_dict(state)
    return network


def extractor(files: Path, **options: Any) -> Siglip2Extractor:
    return Siglip2Extractor(files / "tiny.pt", MODEL, pixels=96 * 64, device="cpu", **options)


def test_values_are_the_last_block_where_every_cell_attends_to_itself_alone(open_clip: Any) -> None:
    """timm's own attention on sequences of one token, then its own norm and pooling head."""
    visual = model(open_clip).visual
    for height, width in (64, 64), (96, 160), (32, 48):
        pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            cells = last_values(visual, pixels)
            trunk = visual.trunk
            x = trunk._pos_embed(trunk.patch_embed(pixels))
            for block in trunk.blocks[:-1]:
                x = block(x)
            alone = x.reshape(-1, 1, x.shape[2])
            expected = trunk.attn_pool(trunk.norm(trunk.blocks[-1].attn(trunk.blocks[-1].norm1(alone))))
        assert cells.shape == (2, height // 16, width // 16, 48)
        assert float((cells.reshape(-1, 48) - expected).abs().max()) < 1e-5


def test_one_cell_alone_is_the_models_own_vector_of_the_image(open_clip: Any) -> None:
    """An image of one cell: pooling it and pooling its cells one by one are the same, so that words fit both alike."""
    network = model(open_clip)
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        cells = dense_features(network.visual, pixels, value_path=False)
        whole = network.encode_image(pixels)
    assert float((cells[:, 0, 0] - whole).abs().max()) < 1e-5


@pytest.mark.parametrize("prompt", ["Tasse à café", "杯子", "コーヒーカップ", "кружка"])
def test_prompts_of_any_language_reach_the_tokenizer_unharmed(open_clip: Any, files: Path, prompt: str) -> None:  # noqa: ARG001
    siglip = extractor(files)
    reader = import_library("transformers", "transformers").AutoTokenizer.from_pretrained(str(files))
    seen: list[torch.Tensor] = []
    tokenize = siglip.tokenize

    def watch(texts: list[str]) -> torch.Tensor:
        seen.append(tokenize(texts))
        return seen[-1]

    siglip.tokenize = watch
    embedding = siglip.embed([prompt])
    assert seen[0].shape == (1, LENGTH)
    # SigLIP 2's makers lower case and drop punctuation; no letter is lost or replaced.
    assert reader.decode(seen[0][0], skip_special_tokens=True) == f"this is a photo of {prompt.lower()}"
    assert float((embedding - siglip.embed(["mug"])).abs().max()) > 1e-3


def test_a_decomposed_accent_is_the_same_word() -> None:
    calls: list[list[str]] = []

    def encode(texts: list[str]) -> torch.Tensor:
        calls.append(texts)
        return torch.ones(len(texts), 2)

    PromptEncoder(encode, sentences.BARE)(["cafe\u0301"])
    assert calls == [["caf\u00e9"]]


def test_scores_use_the_models_temperature_and_bias(open_clip: Any, files: Path) -> None:
    """open_clip's own logits, through the sigmoid that SigLIP is trained by; the bias cancels beside generic words."""
    features = torch.randn(7, 48, generator=torch.Generator().manual_seed(2))
    siglip = extractor(files, score="sigmoid")
    prompts = siglip.embed(["mug", "drill"])
    network = model(open_clip)
    with torch.inference_mode():
        logits = network.logit_scale.exp() * functional.normalize(features, dim=1) @ prompts.T + network.logit_bias
    assert torch.allclose(siglip.scores(features, prompts), torch.sigmoid(logits), atol=1e-5)
    beside = extractor(files)
    generic = beside.embed(sentences.GENERIC_WORDS)
    with torch.inference_mode():
        others = network.logit_scale.exp() * functional.normalize(features, dim=1) @ generic.T + network.logit_bias
    for column in range(2):
        expected = torch.softmax(torch.cat([logits[:, column : column + 1], others], dim=1), dim=1)[:, 0]
        assert torch.allclose(beside.scores(features, prompts)[:, column], expected, atol=1e-5)
    assert extractor(files, score="cosine").text_rule.other == "other"


def test_the_extractor_end_to_end(open_clip: Any, files: Path) -> None:  # noqa: ARG001
    siglip = extractor(files)
    grid = siglip.extract(scene(128, 192))
    assert (grid.rows, grid.columns, grid.dimension) == (4, 6, 48)
    assert torch.allclose(grid.values.norm(dim=2), torch.ones(4, 6), atol=1e-5)
    plain = extractor(files, path="plain")
    assert plain.identity != siglip.identity
    assert float((plain.extract(scene(128, 192)).values - grid.values).abs().max()) > 1e-2
    assert siglip.identity.name == "siglip2"
    assert extractor_of(siglip.identity, files / "tiny.pt").identity == siglip.identity


def test_it_judges_whole_images_by_the_models_own_vector(open_clip: Any, files: Path) -> None:
    siglip = extractor(files)
    assert image_judge(siglip) is siglip
    images = [scene(40, 64), scene(90, 50)]
    judged = siglip.judge(images, "Mug")
    assert judged.words[0] == "Mug"
    assert "mug" not in judged.words  # not its own rival
    assert judged.log_probabilities.shape == (2, len(judged.words)) == (2, len(RIVALS))
    assert torch.allclose(judged.log_probabilities.exp().sum(dim=1), torch.ones(2), atol=1e-5)
    assert not bool(judged.kin[0])
    network = model(open_clip)
    square = functional.interpolate(
        torch.from_numpy(images[0]).permute(2, 0, 1)[None], (64, 64), mode="bicubic", antialias=True
    )
    with torch.inference_mode():
        whole = network.encode_image((square / 255 - 0.48145466) / 0.26862954, normalize=True)
    # Normalised with other statistics than here, by channel: the same direction to a few degrees, not the same numbers.
    assert float(functional.cosine_similarity(whole, siglip.embed_images(images[:1]))) > 0.95
    words = extractor(files, templates=siglip.identity.preprocessing["templates"][:1]).embed(judged.words)
    logits = network.logit_scale.exp().item() * siglip.embed_images(images) @ words.T
    assert torch.allclose(judged.log_probabilities, torch.log_softmax(logits, dim=1), atol=1e-5)


def test_what_is_missing_is_named(open_clip: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "void"))
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    assert DEFAULT_WEIGHTS.name == f"{DEFAULT_MODEL}.safetensors"
    with raises("extractor.weights", DEFAULT_WEIGHTS.name, f"{DEFAULT_WEIGHTS.megabytes:,} MB", DEFAULT_WEIGHTS.source):
        make_extractor("siglip2")
    torch.save(model(open_clip).state_dict(), tmp_path / "alone.pt")
    with raises("extractor.missing", "'nobody/tiny'", "--option tokenizer=FOLDER"):
        Siglip2Extractor(tmp_path / "alone.pt", MODEL).embed(["mug"])
    assert Siglip2Extractor(tmp_path / "alone.pt", MODEL, tokenizer=files).embed(["mug"]).shape == (1, 48)
