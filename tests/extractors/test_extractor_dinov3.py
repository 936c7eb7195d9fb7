"""DINOv3: Meta's own code's numbers on seeded weights, timm's layout, dino.txt's words; text heads for its features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from extractor_weights import DATA, scene, seeded_state
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.extractors import extractor_of, make_extractor
from feature_gs_ros.extractors.base import image_judge
from feature_gs_ros.extractors.dinov3 import DINO_TXT, MODELS, Dinov3Extractor
from feature_gs_ros.extractors.dinov3_network import DinoTxtHead, DinoTxtText, Dinov3Network, Dinov3Shape, rotations
from feature_gs_ros.extractors.libraries import import_library, installed
from feature_gs_ros.extractors.open_clip_text import OpenClipText
from feature_gs_ros.extractors.text_head import TextHead
from feature_gs_ros.extractors.weights import FOLDERS_VARIABLE, OFFLINE_VARIABLE
from tests.errors import raises

SHAPES = {
    "mlp": Dinov3Shape(192, 4, 768, 16, 4, swiglu=False),
    "swiglu": Dinov3Shape(192, 4, 768, 16, 4, swiglu=True),
}
# Sizes as Meta publishes them: width, blocks, hidden channels of the MLP.
PUBLISHED = {
    "vits16": (384, 12, 1536),
    "vits16plus": (384, 12, 1536),
    "vitb16": (768, 12, 3072),
    "vitl16": (1024, 24, 4096),
    "vith16plus": (1280, 32, 5120),
    "vit7b16": (4096, 40, 8192),
}


def hub_state(kind: str, seed: int = 11) -> dict[str, Tensor]:
    """As torch.hub publishes: with what training alone needs, and a bias of the keys that a mask puts to 0."""
    shapes = {key: tuple(value.shape) for key, value in Dinov3Network(SHAPES[kind]).state_dict().items()}
    state = seeded_state({**shapes, "mask_token": (1, 192)}, seed)
    mask = torch.ones(3 * 192)
    mask[192:384] = 0
    state |= {f"blocks.{block}.attn.qkv.bias_mask": mask for block in range(4)}
    return state | {"rope_embed.periods": torch.ones(16)}


def words_state() -> dict[str, Tensor]:
    parts = {"visual_model.head.": DinoTxtHead(192, 512, 2), "text_model.": DinoTxtText(49408, 77, 128, 512, 2, 384)}
    shapes = {prefix + key: tuple(v.shape) for prefix, part in parts.items() for key, v in part.state_dict().items()}
    return seeded_state(shapes, 13) | {"logit_scale": torch.tensor([2.5])}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dinov3")
    paths = {name: folder / f"{name}.pth" for name in ("mlp", "swiglu", "words")}
    for kind in SHAPES:
        torch.save(hub_state(kind), paths[kind])
    torch.save(words_state(), paths["words"])
    return paths


@pytest.fixture(scope="module")
def goldens() -> dict[str, Tensor]:
    return load_file(DATA / "extractor_goldens.safetensors")


def extractor(weights: Path, height: int = 224, width: int = 224, **options: Any) -> Dinov3Extractor:
    return Dinov3Extractor(weights, pixels=height * width, device="cpu", **options)


# ---- the published code


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (128, 320)])
def test_tokens_equal_the_published_code(
    files: dict[str, Path], goldens: dict[str, Tensor], kind: str, height: int, width: int
) -> None:
    values = extractor(files[kind], height, width).extract(scene(height, width)).values
    assert tuple(values.shape) == (height // 16, width // 16, 192)
    assert float((values[::3, ::3, ::24] - goldens[f"dinov3_{kind}_{height}x{width}"]).abs().max()) < 1e-4


@pytest.mark.slow
def test_dino_txt_equals_the_published_code(files: dict[str, Path], goldens: dict[str, Tensor]) -> None:
    spoken = extractor(files["mlp"], words="dinotxt", words_weights=files["words"])
    values = spoken.extract(scene(224, 224)).values
    assert float((values[::3, ::3, ::24] - goldens["dinotxt_224x224"]).abs().max()) < 1e-4
    assert float((spoken.embed_images([scene(224, 224)])[0] - goldens["dinotxt_whole"]).abs().max()) < 1e-5
    if installed("open_clip"):
        with torch.inference_mode():
            mug = spoken.encode_text(["a photo of a mug."])
        assert float((mug[0] - goldens["dinotxt_mug"]).abs().max()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3"]
)
def test_timms_layout_is_the_same_network(name: str, tmp_path: Path) -> None:
    if not installed("timm"):
        pytest.skip("timm is not installed")
    timm: Any = import_library("timm", "timm")
    network = timm.create_model(name, pretrained=False).eval()
    network.load_state_dict(seeded_state({k: tuple(v.shape) for k, v in network.state_dict().items()}, 12))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    found = extractor(tmp_path / "model.safetensors", 64, 160).extract(scene(64, 160)).values
    pixels = torch.from_numpy(scene(64, 160)).permute(2, 0, 1)[None].float() / 255
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = network.forward_features((pixels - mean) / deviation)[:, 5:]
    assert float((found.flatten(0, 1) - expected[0]).abs().max()) < 1e-3


def test_positions_turn_each_cell_by_its_place_and_the_middle_not_at_all() -> None:
    cosines, sines = rotations(3, 5, 64)
    assert torch.equal(cosines[7], torch.ones(64))
    assert torch.equal(sines[7], torch.zeros(64))
    # The outer row lies 2/3 of half the image from its middle; the first frequency has the period 1.
    assert float(sines[2, 0]) == pytest.approx(torch.sin(torch.tensor(-2 / 3 * 6.2831853)).item(), abs=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_stated_sizes_are_those_of_the_published_networks(model: str) -> None:
    width, depth, hidden = PUBLISHED[model]
    swiglu = model.endswith("plus") or model == "vit7b16"
    with torch.device("meta"):
        network = Dinov3Network(Dinov3Shape(width, depth, hidden, 16, 4, swiglu))
    megabytes = sum(value.numel() for value in network.parameters()) * 4 / 1e6
    assert MODELS[model].megabytes == pytest.approx(megabytes, rel=0.01)


# ---- words


def test_words_by_dino_txt(files: dict[str, Path]) -> None:
    spoken = extractor(files["mlp"], words="dinotxt", words_weights=files["words"])
    assert image_judge(spoken) is spoken
    assert extractor_of(spoken.identity, files["mlp"], {"words_weights": files["words"]}).identity == spoken.identity
    assert spoken.identity != extractor(files["mlp"]).identity
    if not installed("open_clip"):
        pytest.skip("open_clip_torch is not installed")
    mug = spoken.embed(["mug"])
    assert mug.shape == (1, 192)
    assert float(mug.norm()) == pytest.approx(1, abs=1e-5)
    cells = spoken.extract(scene(64, 64)).values.flatten(0, 1)
    scores = spoken.scores(cells, mug)
    assert scores.shape == (len(cells), 1)
    assert bool(((scores > 0) & (scores < 1)).all())
    judged = spoken.judge([scene(50, 60)], "mug")
    assert torch.allclose(judged.log_probabilities.exp().sum(dim=1), torch.ones(1), atol=1e-5)


def test_without_words_none_is_known(files: dict[str, Path]) -> None:
    bare = extractor(files["mlp"])
    assert image_judge(bare) is None
    with raises("prompt.unknown"):
        bare.embed(["mug"])


def head_file(path: Path, sizes: list[tuple[int, int]], old_names: bool = False) -> Path:
    names = [
        "linear_layer",
        *(["linear_layer2"] if old_names else [f"hidden_layers.{n}" for n in range(len(sizes) - 1)]),
    ]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs) in zip(names, sizes, strict=True):
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    torch.save(seeded_state(shapes, 17), path)
    return path


@pytest.mark.parametrize("old_names", [False, True])
def test_a_text_head_is_its_layers_with_tanh_between(tmp_path: Path, old_names: bool) -> None:
    path = head_file(tmp_path / "head.pth", [(192, 512), (192, 192)], old_names)
    head, (first, second) = TextHead(path, 192), list(torch.load(path, weights_only=True).items())[::2]
    biases = [value for key, value in torch.load(path, weights_only=True).items() if key.endswith("bias")]
    texts = torch.randn(4, 512, generator=torch.Generator().manual_seed(1))
    expected = torch.tanh(texts @ first[1].T + biases[0]) @ second[1].T + biases[1]
    assert torch.allclose(head.project(texts), expected, atol=1e-5)
    linear = TextHead(head_file(tmp_path / "linear.pth", [(192, 512)]), 192)
    assert linear.project(texts).shape == (4, 192)


def test_a_text_head_gives_words_to_a_field_that_exists(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity stays the field's: the same features, now asked in words."""
    made = extractor(files["mlp"])
    path = head_file(tmp_path / "head.pth", [(192, 512), (192, 192)])
    monkeypatch.setattr(TextHead, "__call__", lambda self, texts: self.project(torch.full((len(texts), 512), 0.1)))
    asked = extractor_of(made.identity, files["mlp"], {"text_head": path})
    assert asked.identity == made.identity
    mug = asked.embed(["mug"])
    assert mug.shape == (1, 192)
    cells = made.extract(scene(64, 64)).values.flatten(0, 1)
    assert torch.allclose(asked.scores(cells, mug), functional.normalize(cells, dim=1) @ mug.T, atol=1e-5)
    assert asked.text_rule.other == "other"


def test_the_words_of_a_text_head_are_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    class Clip:
        dimension = 512

        def __init__(self, model: str, *_: object) -> None:
            assert model == "ViT-B-16-quickgelu"

        def __call__(self, texts: list[str]) -> Tensor:
            asked.append(texts)
            return torch.ones(len(texts), 512)

    monkeypatch.setattr("feature_gs_ros.extractors.text_head.OpenClipText", Clip)
    head = TextHead(head_file(tmp_path / "head.pth", [(192, 512)]), 192)
    assert torch.allclose(head(["a", "b"]), head.project(torch.ones(2, 512)))
    assert asked == [["a", "b"]]
    assert OpenClipText is not Clip


# ---- faults


def test_what_is_missing_or_wrong_is_named(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "void"))
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    other = head_file(tmp_path / "other.pth", [(384, 512)])
    broken = head_file(tmp_path / "broken.pth", [(192, 512), (192, 64)])
    given = {"weights": files["mlp"]}
    for options, fault in [
        ({}, ("extractor.weights", "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth", "343 MB", "https://ai.meta.com")),
        ({"model": "vitx16"}, ("extractor.unknown", "vitx16", "vits16, vits16plus")),
        ({**given, "words": "clip"}, ("extractor.unknown", "dinotxt")),
        ({**given, "words": "dinotxt"}, ("extractor.weights", DINO_TXT.name)),
        ({"weights": tmp_path / "x.pth"}, ("extractor.weights", "x.pth")),
        ({**given, "text_head": tmp_path / "x.pth"}, ("extractor.weights", "linear_layer")),
        ({**given, "text_head": other}, ("extractor.shape", "384", "192")),
        ({**given, "text_head": broken}, ("extractor.shape", "broken.pth")),
        (
            {**given, "words": "dinotxt", "words_weights": files["words"], "text_head": other},
            ("extractor.conflict", "text_head"),
        ),
    ]:
        with raises(*fault):
            make_extractor("dinov3", **options)
    wrong = Dinov3Extractor(files["mlp"], words="dinotxt", words_weights=files["swiglu"])
    with raises("extractor.weights", "dino.txt"):
        wrong.extract(scene(32, 32))
