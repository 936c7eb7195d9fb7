"""The extractors that need no download: contract, known answers, and every bad input."""

from __future__ import annotations

import io
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from feature_gs_ros import extractors
from feature_gs_ros.core.errors import ExtractorError, UnknownPromptError
from feature_gs_ros.extractors import efficientnet_lite as lite
from feature_gs_ros.extractors import extractor_names, extractor_of, make_extractor
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.extractors.network import input_size
from tests.errors import raises


@pytest.fixture(scope="module")
def imagenet() -> Extractor:
    return make_extractor("imagenet", pixels=320 * 192)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- registry


class Needy:
    """An extractor with options that have no default."""

    def __init__(self, x: int, folder: str, labels: str) -> None:
        self.options = x, folder, labels


def test_names_and_unknown_names() -> None:
    assert {"imagenet", "imagenet-parts", "color", "labels", "precomputed"} <= set(extractor_names())
    with raises("extractor.unknown"):
        make_extractor("imagnet")


def test_options_are_checked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    needy = [EntryPoint("needy", f"{__name__}:Needy", extractors.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(extractors, "entry_points", lambda group: needy)  # noqa: ARG005
    with raises("extractor.unknown"):
        make_extractor("color", sise=3)
    with raises("extractor.missing"):
        make_extractor("needy", x=1)


def test_third_party_extractors_come_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("hue", "feature_gs_ros.extractors.color:ColorExtractor", extractors.ENTRY_POINT_GROUP),
        EntryPoint("gone", "no_such_package:Extractor", extractors.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(
        extractors, "entry_points", lambda group: points if group == extractors.ENTRY_POINT_GROUP else []
    )
    assert make_extractor("hue", space="rgb").dimension == 3
    assert extractor_names()[-2:] == ["gone", "hue"]
    with raises("extractor.import"):
        make_extractor("gone")


# ---- the network


def test_network_equals_convolutions_and_batch_norms_unfolded() -> None:
    """The stem and first block by plain functional calls with the batch norms apart."""
    state = torch.load(lite.installed_weights(), weights_only=True)
    network = lite.load_pretrained().network

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return torch.nn.functional.batch_norm(x, *(state[f"{key}.{name}"] for name in names), eps=1e-3)

    pixels = lite.network_input(noise(64, 96), 96, 64)
    same = torch.nn.functional.pad(pixels, (0, 1, 0, 1))
    stem = norm(torch.nn.functional.conv2d(same, state["_conv_stem.weight"], stride=2), "_bn0").clamp(0, 6)
    depthwise = torch.nn.functional.conv2d(stem, state["_blocks.0._depthwise_conv.weight"], padding=1, groups=32)
    hidden = norm(depthwise, "_blocks.0._bn1").clamp(0, 6)
    expected = norm(torch.nn.functional.conv2d(hidden, state["_blocks.0._project_conv.weight"]), "_blocks.0._bn2")
    with torch.inference_mode():
        got = network.blocks[0](network.stem(pixels).clamp(0, 6))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("network", "channels"), [("lite0", (112, 320)), ("lite1", (112, 320)), ("lite2", (120, 352))])
def test_network_strides_and_channels(network: str, channels: tuple[int, int]) -> None:
    try:
        pretrained = lite.load_pretrained(network=network)
    except ExtractorError as error:
        pytest.skip(str(error))
    with torch.inference_mode():
        stages = pretrained.network(lite.network_input(noise(64, 96), 96, 64))
    assert stages.stride16.shape == (1, channels[0], 4, 6)
    assert stages.stride32.shape == (1, channels[1], 2, 3)
    assert stages.head.shape == (1, 1280, 2, 3)
    assert (len(pretrained.stride16.mean), len(pretrained.stride32.mean)) == channels


def test_the_network_is_part_of_the_identity_unless_it_is_lite0() -> None:
    pretrained = make_extractor("imagenet", network="lite2")
    assert pretrained.identity.preprocessing["network"] == "lite2"
    assert extractor_of(pretrained.identity).identity == pretrained.identity
    assert "network" not in make_extractor("imagenet", network="lite0").identity.preprocessing
    assert make_extractor("imagenet", judge_network="lite0").identity == make_extractor("imagenet").identity
    with raises("extractor.unknown"):
        make_extractor("imagenet", network="lite9")
    with raises("extractor.shape"):  # another network's weights
        make_extractor("imagenet", network="lite2", weights=lite.installed_weights("lite0"))


def write(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def test_bad_weights_are_errors(tmp_path: Path) -> None:
    state = dict(torch.load(lite.installed_weights(), weights_only=True))
    broken = tmp_path / "broken.pth"
    broken.write_bytes(lite.installed_weights().read_bytes()[:1000])
    short = {key: value for key, value in state.items() if key != "_fc.bias"}
    wrong = state | {"_conv_stem.weight": torch.zeros(32, 3, 5, 5)}
    poisoned = state | {"_fc.bias": torch.full((1000,), float("nan"))}
    for path, fault in (
        (tmp_path / "none.pth", ("extractor.unreadable",)),
        (broken, ("extractor.format",)),
        (write(tmp_path / "list.pth", [1, 2]), ("extractor.format",)),
        (write(tmp_path / "code.pth", {"_fc.bias": Path("x")}), ("extractor.format",)),
        (write(tmp_path / "short.pth", short), ("extractor.format",)),
        (write(tmp_path / "wrong.pth", wrong), ("extractor.shape", "32")),
        (write(tmp_path / "nan.pth", poisoned), ("extractor.not-finite",)),
    ):
        with raises(*fault):
            make_extractor("imagenet", weights=path)


# ---- imagenet


@pytest.mark.parametrize(("height", "width"), [(120, 200), (33, 47), (1, 1), (400, 20)])
def test_any_image_size_works(imagenet: Extractor, height: int, width: int) -> None:
    grid = imagenet.extract(noise(height, width))
    assert grid.dimension == imagenet.dimension == 1000
    assert torch.isfinite(grid.values).all()
    assert (grid.left, grid.top, grid.right, grid.bottom) == (0, 0, 1, 1)


def test_input_keeps_area_and_aspect() -> None:
    assert input_size(720, 1280, 1920 * 1088, 32) == (1088, 1920)
    height, width = input_size(480, 640, 1920 * 1088, 32)
    assert height % 32 == width % 32 == 0
    assert width / height == pytest.approx(4 / 3, rel=0.03)
    assert height * width == pytest.approx(1920 * 1088, rel=0.05)


def test_scores_are_the_classifier_softmax(imagenet: Extractor) -> None:
    """The extractor's way (centred logits as features) against the network's own: pool, classify, softmax."""
    image = noise(192, 320)
    pretrained = lite.load_pretrained()
    with torch.inference_mode():
        head = pretrained.network(lite.network_input(image, 320, 192)).head
    logits = pretrained.classifier.weight @ head.mean(dim=(0, 2, 3)) + pretrained.classifier.bias
    expected = torch.softmax(logits, dim=0)
    pooled = imagenet.extract(image).values.mean(dim=(0, 1))[None]  # the classifier is affine: the mean commutes
    scores = imagenet.scores(pooled, imagenet.embed(["coffee mug", "crane"]))[0]
    torch.testing.assert_close(
        scores, torch.stack([expected[504], expected[134] + expected[517]]), rtol=1e-3, atol=1e-7
    )
    everything = imagenet.scores(pooled, torch.ones(1, 1000))
    assert float(everything) == pytest.approx(1.0, abs=1e-5)


def test_imagenet_refuses_unknown_words_and_sizes(imagenet: Extractor) -> None:
    with raises("prompt.unknown"):
        imagenet.embed(["screwdriver", "red mug"])
    for pixels in (0, -5, 10**10):
        with raises("extractor.range", f"pixels={pixels}"):
            make_extractor("imagenet", pixels=pixels)


def test_identity_tells_weights_and_preprocessing_apart(imagenet: Extractor) -> None:
    assert imagenet.identity == make_extractor("imagenet", pixels=320 * 192).identity
    assert imagenet.identity != make_extractor("imagenet", pixels=640 * 192).identity
    assert len(imagenet.identity.weights) == 64


def test_words_are_found_where_they_lie_in_a_real_image(tabletop: Path) -> None:
    extractor = make_extractor("imagenet")
    image = cv2.cvtColor(cv2.imread(str(tabletop / "colmap" / "images" / "0.jpg")), cv2.COLOR_BGR2RGB)
    mask = cv2.imread(str(tabletop / "masks" / "0.png"), cv2.IMREAD_UNCHANGED)
    grid = extractor.extract(image)
    scores = extractor.scores(grid.values.flatten(0, 1), extractor.embed(["screwdriver", "coffee mug", "water bottle"]))
    scores = scores.reshape(grid.rows, grid.columns, 3)
    for column, value in enumerate((1, 3, 5)):
        cells = cv2.resize((mask == value).astype(np.float32), (grid.columns, grid.rows), interpolation=cv2.INTER_AREA)
        cells = cv2.dilate(cells, np.ones((3, 3)))
        row, place = divmod(int(scores[:, :, column].argmax()), grid.columns)
        assert cells[row, place] > 0


# ---- imagenet-parts


def test_parts_have_fine_cells_and_balanced_halves() -> None:
    extractor = make_extractor("imagenet-parts")
    grid = extractor.extract(noise(96, 160))
    assert (grid.rows, grid.columns, grid.dimension) == (12, 20, extractor.dimension)
    fine, coarse = grid.values[..., :112], grid.values[..., 112:]
    assert 0.2 < float(fine.norm(dim=2).mean() / coarse.norm(dim=2).mean()) < 5
    with raises("prompt.unknown"):
        extractor.embed(["mug"])


def test_parts_refuse_absurd_cells_and_images() -> None:
    with raises("extractor.range", "cell=0"):
        make_extractor("imagenet-parts", cell=0.5)
    with raises("extractor.range"):
        make_extractor("imagenet-parts", cell=2).extract(np.zeros((4000, 6000, 3), np.uint8))


# ---- color


def test_color_cells_are_mean_colors() -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, 8:] = (255, 0, 51)
    grid = make_extractor("color", space="rgb").extract(image)
    expected = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.2], [1.0, 0.0, 0.2]]).expand(2, 3, 3)
    torch.testing.assert_close(grid.values, expected)


def test_color_cells_average_all_their_pixels() -> None:
    image = noise(16, 24)
    grid = make_extractor("color", space="rgb").extract(image)
    expected = image.reshape(2, 8, 3, 8, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(grid.values.numpy(), expected, atol=0.5 / 255 + 1e-6)  # rounded to 8 bits


def test_color_words_and_codes() -> None:
    extractor = make_extractor("color")
    # CIE Lab of sRGB white, and of the red primary (D65): the published values.
    torch.testing.assert_close(
        extractor.embed(["#FFFFFF", "#ff0000"]), torch.tensor([[100.0, 0, 0], [53.24, 80.09, 67.20]]), atol=0.3, rtol=0
    )
    red, blue = extractor.embed(["#b01818", "#2030a0"])
    scores = extractor.scores(torch.stack([red, blue]), extractor.embed(["red", "blue"]))
    passing = scores > extractor.text_rule.threshold
    assert passing.tolist() == [[True, False], [False, True]]
    for prompt in ("mauvish", "#12345", "#gggggg"):
        with pytest.raises(UnknownPromptError):
            extractor.embed([prompt])


def test_color_refuses_bad_options() -> None:
    with raises("extractor.unknown"):
        make_extractor("color", space="hsv")
    with raises("extractor.range", "cell=0"):
        make_extractor("color", cell=0)


# ---- labels


@pytest.fixture
def label_folder(tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 2:4] = 7
    mask[:, 4:] = 255
    cv2.imwrite(str(tmp_path / "masks/a.png"), mask)
    (tmp_path / "labels.yaml").write_text("0: background\n7: mug\n")
    return tmp_path


def test_labels_are_one_hot_and_ignored_pixels_count_for_no_class(label_folder: Path) -> None:
    extractor = make_extractor("labels", masks=label_folder / "masks", labels=label_folder / "labels.yaml")
    grid = extractor.extract(noise(8, 12), name="a")
    assert grid.interpolation == "nearest"
    assert grid.values[0].tolist() == [[1, 0]] * 2 + [[0, 1]] * 2 + [[0, 0]] * 2
    # A Gaussian seen half on the mug and half on pixels to ignore is all mug.
    features = torch.stack([(grid.values[0, 2] + grid.values[0, 5]) / 2, grid.values[0, 5]])
    assert extractor.scores(features, extractor.embed(["Mugs"])).tolist() == [[1.0], [0.0]]


def test_labels_refuse_missing_frames_other_crops_and_names(label_folder: Path) -> None:
    extractor = make_extractor("labels", masks=label_folder / "masks", labels=label_folder / "labels.yaml")
    with raises("extractor.mask", "b.png"):
        extractor.extract(noise(8, 12), name="b")
    with raises("extractor.size"):
        extractor.extract(noise(12, 12), name="a")
    with raises("prompt.unknown"):
        extractor.embed(["bottle"])
    with raises("extractor.conflict"):
        make_extractor("labels", masks=label_folder / "masks")
    with raises("extractor.missing"):
        make_extractor("labels", classes={"1": "mug"}).extract(noise(8, 12), name="a")


def test_field_extractors_come_back_from_their_identity(label_folder: Path) -> None:
    np.save(label_folder / "a.npy", np.ones((1, 1, 2), np.float32))
    for name, options in (
        ("imagenet", {"pixels": 320 * 192}),
        ("imagenet-parts", {"cell": 16}),
        ("color", {"space": "rgb", "cell": 4}),
        ("labels", {"masks": label_folder / "masks", "labels": label_folder / "labels.yaml"}),
        ("precomputed", {"folder": label_folder, "teacher": "dinov2"}),
    ):
        extractor = make_extractor(name, **options)
        again = extractor_of(extractor.identity)
        assert again.identity == extractor.identity
        assert again.dimension == extractor.dimension
    with raises("extractor.unknown"):
        extractor_of(make_extractor("color").identity, weights="x.pth")


def test_prepared_scores_equal_those_made_anew(imagenet: Extractor) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = make_extractor("labels", classes={"1": "mug", "2": "bottle"})
    for extractor in (imagenet, labels, make_extractor("imagenet-parts"), make_extractor("color")):
        features = torch.rand(7, extractor.dimension, generator=generator)
        embeddings = torch.rand(2, extractor.dimension, generator=generator)
        prepared = extractor.prepare(features)
        assert prepared.shape == (7,)
        torch.testing.assert_close(
            extractor.scores(features, embeddings, prepared), extractor.scores(features, embeddings)
        )


# ---- precomputed


def test_precomputed_reads_all_three_kinds(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "b.npz", features=values.astype(np.float16), rectangle=np.array([0, 0, 1.0, 1.5]))
    save_file({"x": torch.from_numpy(values).bfloat16()}, tmp_path / "c.safetensors")
    np.save(tmp_path / "d.npy", np.asfortranarray(values.astype(">f8")))
    extractor = make_extractor("precomputed", folder=tmp_path)
    assert extractor.dimension == 5
    for name, tolerance in (("a", 0), ("b", 2e-3), ("c", 2e-2), ("d", 0)):
        grid = extractor.extract(noise(4, 4), name=name)
        np.testing.assert_allclose(grid.values.float().numpy(), values, rtol=tolerance, atol=tolerance)
    assert extractor.extract(noise(4, 4), name="b").bottom == 1.5


def test_precomputed_embeddings_answer_prompts(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 1, 2), np.float32))
    np.savez(tmp_path / "words.emb.npz", mug=np.array([3.0, 0]), bottle=np.array([1.0, 1]))
    (tmp_path / "e").mkdir()
    (tmp_path / "words.emb.npz").rename(tmp_path / "e/words.npz")
    extractor = make_extractor("precomputed", folder=tmp_path, embeddings=tmp_path / "e/words.npz")
    torch.testing.assert_close(
        extractor.scores(torch.tensor([[1.0, 0.0]]), extractor.embed(["a mug", "bottles"])),
        torch.tensor([[1.0, 0.5**0.5]]),
    )
    with raises("prompt.unknown"):
        extractor.embed(["cup"])
    with raises("prompt.unknown", "embeddings=FILE"):
        make_extractor("precomputed", folder=tmp_path).embed(["mug"])


def huge_header() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20, 64)}
    )
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", ("extractor.damaged",)),
        (b"no array at all", ("extractor.damaged",)),
        (npy(np.ones((2, 2, 3), np.float32))[:-8], ("extractor.damaged",)),
        (huge_header(), ("extractor.damaged",)),
        (npy(np.array([None, {}])), ("extractor.damaged",)),
        (npy(np.ones((2, 2), np.float32)), ("extractor.shape",)),
        (npy(np.ones((0, 2, 2), np.float32)), ("extractor.shape",)),
        (npy(np.ones((2, 2, 2), np.int32)), ("extractor.format",)),
        (npy(np.full((2, 2, 2), np.nan, np.float32)), ("extractor.not-finite",)),
    ],
)
def test_damaged_arrays_are_errors(tmp_path: Path, content: bytes, fault: tuple[str, ...]) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with raises(*fault):
        make_extractor("precomputed", folder=tmp_path)


def test_types_that_nothing_computes_with_are_errors(tmp_path: Path) -> None:
    save_file({"features": torch.ones(2, 2, 3).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    with raises("extractor.damaged", "float8"):
        make_extractor("precomputed", folder=tmp_path)


def test_arrays_that_unpack_beyond_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros((200, 200, 30), np.float32))
    assert (tmp_path / "a.npz").stat().st_size < 100_000
    monkeypatch.setattr("feature_gs_ros.core.memory.available_bytes", lambda: 5_000_000)
    with raises("budget", "unpacked"):
        make_extractor("precomputed", folder=tmp_path)


def test_damaged_containers_and_folders_are_errors(tmp_path: Path) -> None:
    for name, content in (("a.npz", b"PK\x03\x04 broken"), ("a.safetensors", b"\xff" * 64)):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(content)
        with raises("extractor.damaged"):
            make_extractor("precomputed", folder=folder)
    hostile = tmp_path / "zip"
    hostile.mkdir()
    with zipfile.ZipFile(hostile / "a.npz", "w") as archive:
        archive.writestr("features.npy", huge_header())
    with raises("extractor.damaged"):
        make_extractor("precomputed", folder=hostile)
    with raises("extractor.unreadable"):
        make_extractor("precomputed", folder=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with raises("extractor.empty"):
        make_extractor("precomputed", folder=tmp_path / "empty")
    with raises("extractor.missing"):
        make_extractor("precomputed")


def test_frames_must_exist_and_agree(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 1, 2), np.float32))
    np.save(tmp_path / "b.npy", np.ones((1, 1, 3), np.float32))
    extractor = make_extractor("precomputed", folder=tmp_path)
    with raises("extractor.missing", "'c'"):
        extractor.extract(noise(2, 2), name="c")
    with raises("extractor.shape"):
        extractor.extract(noise(2, 2), name="b")
