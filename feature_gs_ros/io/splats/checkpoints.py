"""Checkpoints of the trainers: gsplat (.pt), nerfstudio's splatfacto (.ckpt) and Inria (.pth).

A pickle is a program. Only tensors, containers and numbers are let through: the pickle's names are looked at
before torch sees them, and torch.load runs with weights_only.
"""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap

INRIA_FIELDS = ("active_sh_degree", "xyz", "features_dc", "features_rest", "scaling", "rotation", "opacity")

# What a checkpoint of numbers needs: each only makes a container, a tensor on the file's bytes, or a string.
_HARMLESS = {
    "collections.OrderedDict",
    "__builtin__.set",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.nn.parameter.Parameter",
    "_codecs.encode",
    *(f"torch.{kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "ComplexDouble", "ComplexFloat")),
    *(f"torch.{kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
}
# Learning rates are often NumPy scalars. They aren't needed: `_Ignored` takes their place, from torch 2.5 on.
_NUMPY_SCALARS = (
    (("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("numpy", "dtype"))
    if hasattr(torch.serialization, "safe_globals")
    else ()
)

_ONE_AT_A_TIME = threading.Lock()  # torch's list of safe names is one for the process

# What torch's unpickler and its zip reader raise at bytes that make no sense to them.
_DAMAGED = (
    pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, AssertionError,
    OverflowError, struct.error,
)  # fmt: skip


def load_checkpoint(path: Path) -> GaussianMap:
    """Gaussians of a checkpoint; its keys show which trainer wrote it.

    Raises:
        MapError: damaged, needs code to be loaded, or holds something else; the message names what was found.
        OSError: the file can't be read.
    """
    _check_pickle(path)
    content = _load(path)
    match content:
        case {"splats": Mapping() as splats}:
            return _from_gsplat(splats, path)
        case {"pipeline": Mapping() as state}:
            return _from_nerfstudio(state, path)
        case [list() | tuple() as model, _]:
            return _from_inria(model, path)
        case Mapping():
            found = f"the keys {_some(content)}"
        case _:
            found = f"a {type(content).__name__}"
    raise MapError(
        f"'{path}' is not a checkpoint of gsplat ('splats'), nerfstudio ('pipeline') or Inria (model, iteration): "
        f"it holds {found}; export the map as PLY",
        code="map.format",
    )


def _from_gsplat(splats: Mapping[object, object], path: Path) -> GaussianMap:
    dimensions = {"means": 2, "quats": 2, "scales": 2, "opacities": 1, "sh0": 3, "shN": 3}
    means, quats, scales, opacities, sh0, sh_rest = _take(splats, dimensions, path)
    return _gaussians(means, quats, scales, opacities, sh0, sh_rest, path)


def _from_nerfstudio(state: Mapping[object, object], path: Path) -> GaussianMap:
    """Keys are ``_model.gauss_params.means``, or ``_model.means`` in older checkpoints."""
    prefixes = [key[: -len("features_dc")] for key in state if isinstance(key, str) and key.endswith(".features_dc")]
    if len(prefixes) != 1:
        raise MapError(
            f"the pipeline of '{path}' holds {len(prefixes)} models with 'features_dc', expected 1 of splatfacto; "
            f"its keys are {_some(state)}",
            code="map.format",
        )
    dimensions = {"means": 2, "quats": 2, "scales": 2, "opacities": 2, "features_dc": 2, "features_rest": 3}
    keys = {prefixes[0] + key: dimension for key, dimension in dimensions.items()}
    means, quats, scales, opacities, features_dc, features_rest = _take(state, keys, path)
    if features_rest.shape[1] == 0:  # trained without SH, splatfacto's colour is the logistic of features_dc
        features_dc = (features_dc.float().sigmoid() - 0.5) / SH_C0
    return _gaussians(means, quats, scales, opacities.flatten(), features_dc[:, None], features_rest, path)


def _from_inria(model: Sequence[object], path: Path) -> GaussianMap:
    named: dict[object, object] = dict(zip(INRIA_FIELDS, model, strict=False))
    dimensions = {"xyz": 2, "rotation": 2, "scaling": 2, "opacity": 2, "features_dc": 3, "features_rest": 3}
    means, quats, scales, opacities, features_dc, features_rest = _take(named, dimensions, path)
    return _gaussians(means, quats, scales, opacities.flatten(), features_dc, features_rest, path)


def _gaussians(
    means: Tensor,  # [N, 3]
    quats_wxyz: Tensor,  # [N, 4]
    log_scales: Tensor,  # [N, 3]
    opacity_logits: Tensor,  # [N]
    sh_dc: Tensor,  # [N, 1, 3]
    sh_rest: Tensor,  # [N, K − 1, 3]
    path: Path,
) -> GaussianMap:
    if sh_dc.shape[::2] != sh_rest.shape[::2]:
        raise MapError(
            f"SH of '{path}' have shapes {tuple(sh_dc.shape)} and {tuple(sh_rest.shape)}: they don't fit",
            code="map.shape",
        )
    sh = torch.cat([sh_dc, sh_rest], dim=1)
    # The tensors lie on the file itself; a map must not change when the file does.
    means = means.clone()
    return GaussianMap.from_parameters(means, quats_wxyz, log_scales, opacity_logits, sh, f"'{path}'")


def _take(values: Mapping[object, object], dimensions: Mapping[str, int], path: Path) -> list[Tensor]:
    """Tensors by name, each with the number of dimensions given, in that order."""
    size = path.stat().st_size
    taken = []
    for key, dimension in dimensions.items():
        value = values.get(key)
        if not isinstance(value, Tensor):
            raise MapError(
                f"'{path}' holds no tensor '{key}'; found {_some(values)}: save the checkpoint again",
                code="map.missing",
            )
        if value.layout != torch.strided or not value.is_floating_point() or value.dim() != dimension:
            raise MapError(
                f"'{key}' of '{path}' has shape {tuple(value.shape)} and type {value.dtype}, "
                f"expected {dimension} dimensions of floats",
                code="map.shape",
            )
        if value.numel() * value.element_size() > size:  # repeated by a stride of 0
            raise MapError(
                f"'{key}' of '{path}' claims {value.numel() * value.element_size()} bytes, the file has {size}",
                code="map.damaged",
            )
        taken.append(value.detach())
    return taken


def _check_pickle(path: Path) -> None:
    """Raises MapError unless the file is torch's zip and its pickle names nothing but what is harmless."""
    named = set()
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                _refuse(path, f"{len(pickles)} entries '…/data.pkl' in it, or it is compressed; torch.save writes one")
            for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
                if opcode.name == "STACK_GLOBAL" or (opcode.name == "PROTO" and argument != 2):
                    _refuse(path, "its pickle is not of protocol 2, torch.save's default")
                if opcode.name in ("GLOBAL", "INST"):
                    named.add(str(argument).replace(" ", ".", 1))
    except (zipfile.BadZipFile, *_DAMAGED) as error:
        _refuse(path, str(error))
    foreign = sorted(named - _HARMLESS - {f"{module}.{name}" for module, name in _NUMPY_SCALARS})
    if foreign:
        raise MapError(
            f"'{path}' calls {_some(foreign)} when it is loaded and is rejected: a pickle can run any code, so only "
            "tensors, containers and numbers are let through. If you trust its origin, open it in the project that "
            "wrote it and export a PLY, or torch.save its tensors alone",
            code="map.unsafe",
        )


def _load(path: Path) -> object:
    try:
        with _ONE_AT_A_TIME, _numpy_scalars_ignored():
            # Mapped, not read: the optimiser's moments, two thirds of a checkpoint, stay on the disk.
            content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _DAMAGED as error:
        _refuse(path, str(error).splitlines()[0] if str(error) else type(error).__name__)
    return content


class _Ignored:
    """Takes the place of a NumPy scalar or its type, whatever it was."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


@contextlib.contextmanager
def _numpy_scalars_ignored() -> Iterator[None]:
    if not _NUMPY_SCALARS:
        yield
        return
    places: list[Callable[..., object] | tuple[Callable[..., object], str]]
    places = [type(name, (_Ignored,), {"__module__": module}) for module, name in _NUMPY_SCALARS]
    with torch.serialization.safe_globals(places):
        yield


def _some(names: Mapping[object, object] | Sequence[str]) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:12]) + (f", … ({len(shown)} in all)" if len(shown) > 12 else "") if shown else "nothing"


def _refuse(path: Path, reason: str) -> NoReturn:
    raise MapError(
        f"the checkpoint '{path}' is damaged or not of torch's zip format: {reason}; save or copy it again",
        code="map.damaged",
    )
