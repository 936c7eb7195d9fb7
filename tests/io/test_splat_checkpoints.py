"""Checkpoints of gsplat, nerfstudio and Inria; pickles that would run code are refused before torch sees them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_samples import (
    C0,
    Parameters,
    assert_holds,
    gsplat_checkpoint,
    inria_checkpoint,
    nerfstudio_checkpoint,
    random_parameters,
)

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.io.splats.registry import load_map
from tests.errors import raises

TRAINERS: dict[str, Callable[[Parameters], object]] = {
    "ckpt_29999_rank0.pt": gsplat_checkpoint,
    "step-000029999.ckpt": nerfstudio_checkpoint,
    "chkpnt30000.pth": inria_checkpoint,
}


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def with_pickle(source: Path, change: Callable[[bytes], bytes], compress: bool = False) -> Path:
    """The checkpoint with its pickle changed."""
    target = source.with_name("changed" + source.suffix)
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", kind) as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, change(content) if info.filename.endswith("data.pkl") else content)
    return target


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_a_trainers_checkpoint(tmp_path: Path, name: str, degree: int) -> None:
    parameters = random_parameters(degree=degree)
    assert_holds(load_map(saved(tmp_path / name, TRAINERS[name](parameters))), parameters)


@pytest.mark.parametrize("name", ["ckpt_29999_rank0.pt", "chkpnt30000.pth"])
def test_without_view_dependence(tmp_path: Path, name: str) -> None:
    parameters = random_parameters(degree=0)
    assert_holds(load_map(saved(tmp_path / name, TRAINERS[name](parameters))), parameters)


def test_splatfacto_of_degree_0_stores_logits_of_colours(tmp_path: Path) -> None:
    parameters = random_parameters(degree=0)
    gaussians = load_map(saved(tmp_path / "map.ckpt", nerfstudio_checkpoint(parameters)))
    np.testing.assert_allclose(gaussians.sh[:, 0] * C0 + 0.5, 1 / (1 + np.exp(-parameters.sh[:, 0])), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefix", ["_model.", "_model.gauss_params.", "module._model.gauss_params."])
def test_older_and_newer_keys_of_nerfstudio(tmp_path: Path, prefix: str) -> None:
    parameters = random_parameters()
    assert_holds(load_map(saved(tmp_path / "map.ckpt", nerfstudio_checkpoint(parameters, prefix))), parameters)


def test_numpy_scalars_are_ignored_whichever_numpy_wrote_them(tmp_path: Path) -> None:
    parameters = random_parameters()
    path = saved(tmp_path / "map.pth", inria_checkpoint(parameters))
    here = b"numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else b"numpy.core.multiarray"
    with zipfile.ZipFile(path) as archive:
        assert here in archive.read("map/data.pkl")
    for module in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        changed = with_pickle(path, lambda content, module=module: content.replace(here, module))
        assert_holds(load_map(changed), parameters)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path: Path, dtype: torch.dtype) -> None:
    parameters = random_parameters()
    checkpoint = gsplat_checkpoint(parameters)
    checkpoint["splats"] = {name: tensor.to(dtype) for name, tensor in checkpoint["splats"].items()}
    gaussians = load_map(saved(tmp_path / "map.pt", checkpoint))
    relative = 2 * torch.finfo(dtype).eps + 1e-6
    np.testing.assert_allclose(gaussians.means, parameters.means, rtol=relative)
    np.testing.assert_allclose(gaussians.scales.log(), parameters.log_scales, rtol=relative)
    assert gaussians.means.dtype == torch.float32


def test_tensors_saved_on_a_gpu_load_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = random_parameters()
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:1")
    path = saved(tmp_path / "map.pt", gsplat_checkpoint(parameters))
    monkeypatch.undo()
    with zipfile.ZipFile(path) as archive:
        assert b"cuda:1" in archive.read("map/data.pkl")
    assert_holds(load_map(path), parameters)


def test_a_map_outlives_its_checkpoint(tmp_path: Path) -> None:
    parameters = random_parameters()
    path = saved(tmp_path / "map.pt", gsplat_checkpoint(parameters))
    gaussians = load_map(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_holds(gaussians, parameters)


class RunsCode:
    """Pickled, this makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_code_is_refused_unrun(tmp_path: Path, protocol: int) -> None:
    checkpoint = gsplat_checkpoint(random_parameters()) | {"extra": RunsCode(tmp_path / "harm")}
    torch.save(checkpoint, tmp_path / "map.pt", pickle_protocol=protocol)
    with raises(*(("map.unsafe", "posix.mkdir") if protocol == 2 else ("map.damaged",))):
        load_map(tmp_path / "map.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["torch FloatTensor", "builtins bytearray", "torch._utils _rebuild_sparse_tensor"])
def test_what_could_allocate_is_refused_too(tmp_path: Path, name: str) -> None:
    """torch's unpickler lets these through; called with a large number they take that much memory."""
    path = saved(tmp_path / "map.pt", {"splats": {}})
    call = b"c" + name.replace(" ", "\n").encode() + b"\nJ\xff\xff\xff\x7f\x85R"
    changed = with_pickle(path, lambda content: content[:-1] + b"0" + call + b".")
    with raises("map.unsafe", name.replace(" ", ".")):
        load_map(changed)


def test_the_whole_model_object_is_refused(tmp_path: Path) -> None:
    with raises("map.unsafe"):
        load_map(saved(tmp_path / "map.pt", torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "epoch": 3}, "it holds the keys state_dict, epoch"),
        ({}, "it holds the keys nothing"),
        ({"splats": 3}, "it holds the keys splats"),
        (torch.zeros(3), "it holds a Tensor"),
        ([1, 2], "it holds a list"),
        (
            {"splats": {"means": torch.zeros(2, 3), "colors": torch.zeros(2, 3)}},
            "no tensor 'quats'; found means, colors",
        ),
        ({"splats": {"means": [1, 2]}}, "no tensor 'means'"),
        ({"pipeline": {"_model.field.weight": torch.zeros(2)}}, "0 models with 'features_dc'"),
        ({"pipeline": {f"{k}.features_dc": torch.zeros(1, 3) for k in "ab"}}, "2 models with 'features_dc'"),
        (((1, torch.zeros(2, 3)), 7), "no tensor 'rotation'; found active_sh_degree, xyz"),
    ],
)
def test_what_is_missing_is_said_with_what_was_found(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(MapError) as caught:
        load_map(saved(tmp_path / "map.pt", content))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("means", torch.zeros(20), ("map.shape", "'means'")),
        ("means", torch.zeros(20, 3, dtype=torch.int64), ("map.shape",)),
        ("means", torch.zeros(20, 3, dtype=torch.complex64), ("map.shape",)),
        ("means", torch.zeros(19, 3), ("map.shape",)),
        ("scales", torch.zeros(20, 2), ("map.shape", "20")),
        ("shN", torch.zeros(19, 3, 3), ("map.shape",)),
        ("shN", torch.zeros(20, 3, 1), ("map.shape",)),
        ("shN", torch.zeros(20, 24, 3), ("map.shape",)),
        ("opacities", torch.full((20,), torch.nan), ("map.empty", "20")),
    ],
)
def test_tensors_that_dont_fit(tmp_path: Path, key: str, value: torch.Tensor, fault: tuple[str, ...]) -> None:
    checkpoint = gsplat_checkpoint(random_parameters())
    checkpoint["splats"][key] = value
    with raises(*fault):
        load_map(saved(tmp_path / "map.pt", checkpoint))


def test_sizes_beyond_the_file_take_no_memory(tmp_path: Path) -> None:
    checkpoint = {"splats": {"means": torch.zeros(1, 3).expand(2_000_000_000, 3)}}  # 12 bytes, repeated by stride 0
    with raises("map.damaged", "24000000000"):
        load_map(saved(tmp_path / "map.pt", checkpoint))
    path = saved(tmp_path / "short.pt", {"splats": {"means": torch.zeros(10, 3)}})
    rows = b"K\nK\x03\x86"  # the size (10, 3)
    with zipfile.ZipFile(path) as archive:
        assert rows in archive.read("short/data.pkl")
    longer = with_pickle(path, lambda content: content.replace(rows, b"J\x00\x00\x00\x70K\x03\x86"))
    with raises("map.damaged"):
        load_map(longer)


def test_damaged_archives(tmp_path: Path) -> None:
    path = saved(tmp_path / "map.pt", gsplat_checkpoint(random_parameters()))
    with raises("map.damaged"):
        load_map(with_pickle(path, lambda content: content, compress=True))
    with raises("map.damaged"):
        load_map(with_pickle(path, lambda content: content[:-20]))
    with raises("map.damaged"):
        load_map(with_pickle(path, lambda content: content.replace(b"storage", b"garbage")))
    encoded = saved(tmp_path / "encoded.pth", inria_checkpoint(random_parameters()))
    with raises("map.damaged"):
        load_map(with_pickle(encoded, lambda content: content.replace(b"latin1", b"matin1")))
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as archive:
        archive.writestr("a.jpg", b"")
    with raises("map.damaged", "/data"):
        load_map(tmp_path / "photos.pt")
    path.write_bytes(path.read_bytes()[:-100])
    with raises("map.damaged"):
        load_map(path)


def test_torchs_format_before_zip_is_refused(tmp_path: Path) -> None:
    checkpoint = gsplat_checkpoint(random_parameters())
    torch.save(checkpoint, tmp_path / "map.pt", _use_new_zipfile_serialization=False)
    with raises("map.damaged", "1.6"):
        load_map(tmp_path / "map.pt")
