"""DINOv2: loading by torch.hub, sizes, and, where FEATURE_GS_DINOV2 names a clone, the published code's numbers."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from extractor_weights import DATA, published_shapes, scene, seeded_state
from safetensors.torch import load_file

from feature_gs_ros.extractors import dinov2, extractor_of, make_extractor
from feature_gs_ros.extractors.weights import FOLDERS_VARIABLE, OFFLINE_VARIABLE
from tests.errors import raises

# A hub of one linear layer: a cell's token is the mean of its pixels, so that places and sizes can be read off.
TINY_HUB = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, 384))
    def forward_features(self, x):
        cells = torch.nn.functional.avg_pool2d(x, 14).flatten(2).transpose(1, 2)
        return {"x_norm_patchtokens": cells.repeat(1, 1, 128) + self.cls_token}
def dinov2_vits14(pretrained=True):
    assert not pretrained
    return Net()
"""


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "hubconf.py").write_text(TINY_HUB)
    torch.save({"cls_token": torch.zeros(1, 1, 384)}, tmp_path / "dinov2_vits14_pretrain.pth")
    return {"hub": tmp_path, "weights": tmp_path / "dinov2_vits14_pretrain.pth"}


@pytest.fixture(scope="module")
def clone() -> Path:
    folder = os.environ.get(dinov2.CLONE_VARIABLE, "")
    if not folder:
        pytest.skip(f"{dinov2.CLONE_VARIABLE} names no clone of DINOv2's repository")
    return Path(folder)


def test_cells_lie_where_their_pixels_are(tiny: dict[str, Path]) -> None:
    """The image is resized to multiples of 14 with its aspect; a bright patch comes out at its own cell."""
    image = np.zeros((280, 420, 3), dtype=np.uint8)
    image[140:160, 300:320] = 255  # of 14 rows × 21 columns of 20 pixels: row 7, column 15
    extractor = make_extractor("dinov2", pixels=196 * 294, **tiny)
    grid = extractor.extract(image)
    assert (grid.rows, grid.columns, grid.dimension) == (14, 21, extractor.dimension)
    assert (grid.left, grid.top, grid.right, grid.bottom) == (0, 0, 1, 1)
    brightest = int(grid.values.sum(dim=2).argmax())
    assert divmod(brightest, grid.columns) == (7, 15)
    # Black, normalised by ImageNet's statistics.
    assert grid.values[0, 0, :3].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (720, 1280), (1280, 720), (37, 911)])
def test_input_keeps_the_aspect_to_half_a_cell(tiny: dict[str, Path], height: int, width: int) -> None:
    grid = make_extractor("dinov2", **tiny).extract(np.zeros((height, width, 3), dtype=np.uint8))
    scale = (644 * 476 / (height * width)) ** 0.5 / 14
    assert abs(grid.rows - height * scale) <= 0.5
    assert abs(grid.columns - width * scale) <= 0.5


def test_precision_and_identity(tiny: dict[str, Path]) -> None:
    extractor = make_extractor("dinov2", precision="bfloat16", **tiny)
    assert extractor.extract(scene(28, 28)).values.dtype == torch.bfloat16
    assert extractor.identity.preprocessing["interpolation"] == "bicubic"
    assert extractor.identity.preprocessing["model"] == "vits14"
    again = extractor_of(extractor.identity, tiny["weights"])
    assert again.identity == extractor.identity
    with raises("prompt.unknown", "dinov2", "mug"):
        extractor.embed(["mug"])


@pytest.mark.parametrize("model", dinov2.MODELS)
def test_the_model_is_told_by_its_weights(model: str) -> None:
    shapes = published_shapes(f"dinov2_{model}")
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert dinov2.model_of(state) == model
    assert dinov2.weights_file(model).name.startswith(f"dinov2_{model.replace('_reg', '_reg4')}_pretrain")


def test_what_is_missing_or_wrong_is_named(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "void"))
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    with raises("extractor.weights", "dinov2_vitl14_reg4_pretrain.pth", "1,218", "https://dl.fbaipublic"):
        make_extractor("dinov2", model="vitl14_reg")
    for options, fault in [
        ({"model": "vitx14"}, ("extractor.unknown", "14")),
        ({"pixels": 100}, ("extractor.range", "pixels=100")),
        ({"weights": tmp_path / "hubconf.py"}, ("extractor.unsafe", "hubconf.py")),
    ]:
        with raises(*fault):
            make_extractor("dinov2", **{**tiny, **options})
    other = tmp_path / "other.pth"
    torch.save({"cls_token": torch.zeros(1, 1, 384), "more": torch.zeros(1)}, other)
    with raises("extractor.format", "14"):
        make_extractor("dinov2", **{**tiny, "weights": other}).extract(scene(28, 28))


def test_code_that_is_missing_is_named_with_its_mend(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "void"))
    monkeypatch.delenv(dinov2.CLONE_VARIABLE, raising=False)
    for variable in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there: a machine without a network
    # urllib keeps the first opener that it makes, with the proxies of that moment, for all that a process opens later.
    monkeypatch.setattr(urllib.request, "_opener", None)
    with raises("extractor.unreadable", "/facebookresearch/dinov2", "git clone", "hub=FOLDER"):
        make_extractor("dinov2", weights=tiny["weights"]).extract(scene(28, 28))
    with raises("extractor.unreadable", "hub=FOLDER"):
        make_extractor("dinov2", weights=tiny["weights"], hub=tmp_path / "void").extract(scene(28, 28))


# ---- the published code


@pytest.mark.parametrize("model", ["vits14", "vits14_reg"])
def test_tokens_equal_the_published_code(clone: Path, tmp_path: Path, model: str) -> None:
    goldens = load_file(DATA / "extractor_goldens.safetensors")
    torch.save(seeded_state(published_shapes(f"dinov2_{model}"), 7), tmp_path / "w.pth")
    for height, width in [(518, 518), (252, 336), (140, 70)]:
        extractor = make_extractor("dinov2", weights=tmp_path / "w.pth", hub=clone, pixels=height * width, device="cpu")
        values = extractor.extract(scene(height, width)).values
        assert tuple(values.shape) == (height // 14, width // 14, 384)
        difference = values[::4, ::3, ::24] - goldens[f"dinov2_{model}_{height}x{width}"]
        assert float(difference.abs().max()) < 1e-4


@pytest.mark.parametrize("model", dinov2.MODELS)
def test_networks_of_the_clone_have_the_published_keys(clone: Path, model: str) -> None:
    with torch.device("meta"):
        network = dinov2.hub_network(model, clone)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == published_shapes(
        f"dinov2_{model}"
    )


def test_a_batch_is_its_images(clone: Path, tmp_path: Path) -> None:
    torch.save(seeded_state(published_shapes("dinov2_vits14"), 7), tmp_path / "w.pth")
    extractor = dinov2.Dinov2Extractor(weights=tmp_path / "w.pth", hub=clone, pixels=112 * 112, device="cpu")
    images = [scene(112, 112), scene(112, 112)[::-1].copy()]
    for grid, image in zip(extractor.extract_batch(images), images, strict=True):
        assert float((grid.values - extractor.extract(image).values).abs().max()) < 1e-4
