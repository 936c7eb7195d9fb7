"""Weights files: found, refused, converted; a message that says what is missing, whence and how big; no code is run."""

from __future__ import annotations

import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from extractor_weights import published_shapes
from safetensors.torch import load_file, save_file
from torch import nn

from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.extractors import dinov2, sam, weights
from feature_gs_ros.extractors.weights import (
    WeightsFile,
    convert_checkpoint,
    fill_network,
    find_weights,
    load_state,
    present_weights,
    sha256_of,
)
from tests.errors import raises

WANTED = WeightsFile("tiny.pth", "https://example.org/tiny.pth", 12, "MIT")
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


class Trap:
    """Pickled, it makes a file when it is opened by a reader that runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


class Attributes(dict):  # type: ignore[type-arg]
    """As Lightning keeps the training's options beside the weights."""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(weights.FOLDERS_VARIABLE, raising=False)
    monkeypatch.setenv(weights.OFFLINE_VARIABLE, "1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A file server on this machine; what ends in .cut breaks off."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if "?etag=" in self.path:
                self.send_response(302)
                self.send_header("X-Linked-ETag", f'"{self.path.split("=")[1]}"')
                self.send_header("Location", self.path.split("?")[0])
                return self.end_headers()
            if not self.path.endswith(".cut"):
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
            return None

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


# ---- finding


def test_a_missing_file_is_named_with_its_source_its_size_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(ExtractorError) as caught:
        find_weights(WANTED)
    for part in ("tiny.pth", "12 MB", "https://example.org/tiny.pth", "--weights", str(tmp_path / "hub"), "OFFLINE"):
        assert part in str(caught.value)
    with raises("extractor.weights", "nowhere.pth", "12", "example.org"):
        find_weights(WANTED, tmp_path / "nowhere.pth")


def test_files_are_found_by_path_folder_variable_and_in_the_hubs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("given", "named", "hub/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "tiny.pth").touch()
    assert find_weights(WANTED) == tmp_path / "hub/checkpoints/tiny.pth"
    monkeypatch.setenv(weights.FOLDERS_VARIABLE, f"{tmp_path / 'void'}:{tmp_path / 'named'}")
    assert find_weights(WANTED) == tmp_path / "named/tiny.pth"
    assert find_weights(WANTED, tmp_path / "given") == tmp_path / "given/tiny.pth"
    assert find_weights(WANTED, tmp_path / "given/tiny.pth") == tmp_path / "given/tiny.pth"


def test_a_converted_file_stands_for_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.safetensors").touch()
    monkeypatch.setenv(weights.FOLDERS_VARIABLE, str(tmp_path))
    assert present_weights([WANTED]) == [tmp_path / "tiny.safetensors"]


def test_downloads_arrive_whole_or_not_at_all(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weights.OFFLINE_VARIABLE)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "there.pth").write_bytes(b"weights")
    assert find_weights(WeightsFile("got.pth", f"{server}/there.pth", 1, "")).read_bytes() == b"weights"
    for name in ("broken.cut", "absent.pth"):
        with raises("extractor.weights"):
            find_weights(WeightsFile(name, f"{server}/{name}", 1, ""))
    assert [path.name for path in (tmp_path / "hub/checkpoints").iterdir()] == ["got.pth"]


def test_downloads_are_checked_by_the_stated_digest(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(weights.OFFLINE_VARIABLE)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "there.pth").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for stated in (digest, digest[:8]):
        wanted = WeightsFile(f"{stated}.pth", f"{server}/there.pth", 1, "", sha256=stated)
        assert find_weights(wanted).read_bytes() == b"abc"
    with raises("extractor.weights", digest, "0123"):
        find_weights(WeightsFile("other.pth", f"{server}/there.pth", 1, "", sha256="0123"))
    # As the Hugging Face hub answers: a redirect that states the file's digest.
    assert find_weights(WeightsFile("hub.pth", f"{server}/there.pth?etag={digest}", 1, "")).read_bytes() == b"abc"
    with raises("extractor.weights", "f" * 64):
        find_weights(WeightsFile("changed.pth", f"{server}/there.pth?etag={'f' * 64}", 1, ""))
    assert not (tmp_path / "hub/checkpoints/other.pth").exists()
    assert not (tmp_path / "hub/checkpoints/changed.pth").exists()


@pytest.mark.parametrize("model", [*dinov2.MODELS, *(f"sam_{size}" for size in ("vit_b", "vit_l", "vit_h"))])
def test_stated_sizes_are_those_of_the_published_tensors(model: str) -> None:
    is_sam = model.startswith("sam_")
    file = sam.weights_file(model[4:]) if is_sam else dinov2.weights_file(model)
    shapes = published_shapes(model if is_sam else f"dinov2_{model}")
    megabytes = sum(torch.Size(shape).numel() for shape in shapes.values()) * 4 / 1e6
    assert file.megabytes == pytest.approx(megabytes, rel=0.005)


# ---- reading


@pytest.mark.parametrize("layout", ["plain", "state_dict", "model", "legacy", "safetensors"])
def test_tensors_are_read_from_every_layout(tmp_path: Path, layout: str) -> None:
    path = tmp_path / ("w.safetensors" if layout == "safetensors" else "w.pth")
    if layout == "safetensors":
        save_file(TENSORS, path)
    elif layout in ("state_dict", "model"):
        torch.save({layout: TENSORS, "epoch": 3}, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=layout == "plain")
    state = load_state(path)
    assert set(state) == set(TENSORS)
    assert torch.equal(state["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_with_code_are_refused_and_converted_without_running_it(tmp_path: Path, legacy: bool) -> None:
    mark = tmp_path / "the trap was sprung"
    content = {
        "state_dict": {f"net.{key}": value for key, value in TENSORS.items()},
        "hyper_parameters": Attributes(lr=0.1, nested=[Trap(mark), {Trap: 1}]),
        "callbacks": {Trap: {"best": Trap(mark)}},
    }
    path, target = tmp_path / "trained.ckpt", tmp_path / "safe.safetensors"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with raises("extractor.unsafe", "--convert", "trained.ckpt"):
        load_state(path)
    assert convert_checkpoint(path, target) == 2
    assert not mark.exists()
    assert torch.equal(load_file(target)["net.a.weight"], TENSORS["a.weight"])
    # The trap is a real one: a reader that trusts the file springs it.
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))  # type: ignore[no-untyped-call]
    for read in (load_state, lambda path: convert_checkpoint(path, tmp_path / "out.safetensors")):
        with raises("extractor.unsafe"):
            read(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"<html>not found</html>", b"PK\x03\x04" + bytes(40), pickle.dumps([1]), b"\xff" * 99]
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with raises("extractor.damaged|extractor.unsafe|extractor.empty", name):
        load_state(tmp_path / name)
    if name == "w.pth":
        with raises("extractor.damaged|extractor.unsafe|extractor.empty", name):
            convert_checkpoint(tmp_path / name, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_truncated_weights_are_named(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "w.pth").write_bytes(whole[: int(len(whole) * share)])
        with raises("extractor.damaged", "w.pth"):
            load_state(tmp_path / "w.pth")


def test_files_without_weights_are_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with raises("extractor.empty"):
        load_state(tmp_path / "w.pth")
    for read in (load_state, sha256_of):
        with raises("extractor.unreadable"):
            read(tmp_path / "absent.pth")


def test_hash_follows_the_files_content(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    assert sha256_of(tmp_path / "w") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "w").write_bytes(b"")
    assert sha256_of(tmp_path / "w").startswith("e3b0c442")


# ---- into a network


def test_a_network_takes_exactly_its_keys_and_shapes() -> None:
    network = nn.Module()
    network.a = nn.Linear(3, 2)
    where = Path("w.pth")
    fill_network(network, TENSORS, where, "it")
    assert torch.equal(network.a.weight, TENSORS["a.weight"])
    wrong = {
        ("extractor.format", "a.bias"): {"a.weight": TENSORS["a.weight"]},
        ("extractor.format", "unknown: b"): {**TENSORS, "b": torch.zeros(1)},
        ("extractor.shape", "(2,)", "(2, 3)"): {**TENSORS, "a.weight": torch.zeros(2)},
        ("extractor.not-finite", "a.bias"): {**TENSORS, "a.bias": torch.tensor([0.0, float("nan")])},
    }
    for fault, state in wrong.items():
        with raises(*fault):
            fill_network(network, state, where, "it")
