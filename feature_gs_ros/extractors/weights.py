"""Weights files of the large extractors: where they are, what is said when they are missing, and reading no code."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import pickle
import re
import struct
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.io.atomic import atomic_path

FOLDERS_VARIABLE = "FEATURE_GS_WEIGHTS"  # folders to look in, parted as in PATH
OFFLINE_VARIABLE = "FEATURE_GS_OFFLINE"  # set it, and nothing is ever downloaded
TIMEOUT = 20  # seconds until a server must answer
_NO_KEY = "\0"  # a prefix that no key has
_LISTED = 3  # keys named in a message
_DAMAGED = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights as its makers publish it."""

    name: str
    source: str  # its URL, or the page that leads to it
    megabytes: int  # 1e6 bytes
    licence: str
    direct: bool = True  # source is the file itself
    sha256: str = ""  # of the file, hex, or its beginning; empty where its makers state none

    def __str__(self) -> str:
        return f"{self.name} ({self.megabytes:,} MB, {self.source})"


def find_weights(wanted: WeightsFile, given: str | Path | None = None) -> Path:
    """Path of the file: the one given, or in a known folder, or downloaded to torch.hub's folder.

    Args:
        given: the file, or the folder that it lies in.

    Raises:
        ExtractorError: it is nowhere, and can't be downloaded; the message says what is missing and whence to get it.
    """
    if given is not None:
        path = Path(given).expanduser()
        path = path / wanted.name if path.is_dir() else path
        if not path.is_file():
            raise ExtractorError(f"there are no weights at '{path}'; get {wanted}", code="extractor.weights")
        return path
    for path in present_weights([wanted]):
        return path
    target = weights_folders()[-1] / wanted.name
    reason = "it can't be downloaded by itself" if not wanted.direct else _download(wanted, target)
    if reason:
        raise ExtractorError(
            f"the weights {wanted} are missing ({reason}); get the file and pass it as weights=FILE (--weights FILE), "
            f"or put it into {target.parent} or a folder that {FOLDERS_VARIABLE} names",
            code="extractor.weights",
        )
    return target


def present_weights(wanted: Sequence[WeightsFile]) -> list[Path]:
    """Those of the files that lie in a known folder, as they are or converted to safetensors."""
    names = [name for file in wanted for name in (file.name, f"{Path(file.name).stem}.safetensors")]
    paths = [folder / name for name in dict.fromkeys(names) for folder in weights_folders()]
    return [path for path in paths if path.is_file()]


def weights_folders() -> list[Path]:
    """Where weights are looked for: those of FEATURE_GS_WEIGHTS, then torch.hub's, which downloads go to."""
    named = [Path(part).expanduser() for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    return [*named, Path(torch.hub.get_dir()) / "checkpoints"]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex; remembered as long as the file stays as it is.

    Raises:
        ExtractorError: the file can't be read.
    """
    try:
        status = path.stat()
        return _sha256(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise ExtractorError(
            f"can't read the weights '{path}': {error.strerror}", code="extractor.unreadable"
        ) from error


def load_state(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Tensors of a checkpoint by key, on the CPU, those of a nested ``state_dict`` or ``model`` where there is one.

    Files are opened by ``torch.load(weights_only=True)`` or safetensors: what could run code is refused.

    Args:
        path: of the file.
        prefixes: only keys that begin so; of safetensors no other is read.

    Raises:
        ExtractorError: unreadable, damaged, no tensors in it, or Python objects beside them.
    """
    checkpoint = _read(path, prefixes)
    if path.suffix == ".safetensors" and prefixes != ("",):
        return cast("dict[str, Tensor]", checkpoint)  # none of the keys is no damage
    return {key: value for key, value in _tensors(checkpoint, path).items() if key.startswith(prefixes)}


def as_floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half-precision weights (as published for GPUs) as float32."""
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def checkpoint_arguments(path: Path) -> dict[str, object]:
    """The options that a model was trained with, where its checkpoint keeps them under ``args``; else nothing.

    Raises:
        ExtractorError: as `load_state`.
    """
    checkpoint = _read(path, (_NO_KEY,))
    kept = checkpoint.get("args") if isinstance(checkpoint, Mapping) else None
    if isinstance(kept, argparse.Namespace):
        return dict(vars(kept))
    return dict(kept) if isinstance(kept, Mapping) else {}


def _read(path: Path, prefixes: tuple[str, ...]) -> object:
    """What a checkpoint holds; of safetensors only the tensors whose keys begin so."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefixes)}  # noqa: SIM118
        _refuse_torchscript(path)
        # Mapped: of a training checkpoint only the weights are read, not the optimizer's state. A Namespace is what
        # argparse keeps options in; making one runs nothing.
        allow = getattr(torch.serialization, "safe_globals", contextlib.nullcontext)  # from torch 2.5 on
        with allow([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise ExtractorError(
            f"can't read the weights '{path}': {error.strerror or error}", code="extractor.unreadable"
        ) from error
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "global" not in str(error).lower():
            raise _damaged(path, error) from error
        raise ExtractorError(
            f"'{path}' holds Python objects beside its weights, and opening these could run code: it is not read. "
            f"Take the weights out without running anything: feature-gs extractors --convert {path} "
            f"--out {path.with_suffix('.safetensors').name}",
            code="extractor.unsafe",
        ) from error
    except (SafetensorError, struct.error, zipfile.BadZipFile, *_DAMAGED) as error:
        raise _damaged(path, error) from error


def convert_checkpoint(source: Path, target: Path) -> int:
    """Write the tensors of a checkpoint as safetensors, without running what else it holds; returns their number.

    Raises:
        ExtractorError: unreadable, damaged, or no tensors in it.
    """
    try:
        _refuse_torchscript(source)
        checkpoint = torch.load(source, map_location="cpu", weights_only=False, pickle_module=_InertPickle)
    except OSError as error:
        raise ExtractorError(
            f"can't read the weights '{source}': {error.strerror or error}", code="extractor.unreadable"
        ) from error
    except (pickle.UnpicklingError, struct.error, zipfile.BadZipFile, *_DAMAGED) as error:
        raise _damaged(source, error) from error
    tensors = {key: value.detach().clone().contiguous() for key, value in _tensors(checkpoint, source).items()}
    try:
        with atomic_path(target) as part:
            save_file(tensors, part)
    except OSError as error:
        raise ExtractorError(
            f"can't write '{target}': {error.strerror or error}", code="extractor.unwritable"
        ) from error
    return len(tensors)


def fill_network(network: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Copy a state dict into a network that must want exactly its keys and shapes.

    Raises:
        ExtractorError: keys are missing or left over, shapes differ, or values are not finite.
    """
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        parts = [
            f"{len(keys)} {word}: {_some(keys)}" for word, keys in (("missing", missing), ("unknown", extra)) if keys
        ]
        raise ExtractorError(f"'{path}' is not a file of {what}; keys {'; '.join(parts)}", code="extractor.format")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise ExtractorError(
                f"'{key}' in '{path}' has shape {tuple(state[key].shape)}, {what} wants {tuple(value.shape)}",
                code="extractor.shape",
            )
        if not bool(torch.isfinite(state[key]).all()):
            raise ExtractorError(
                f"'{key}' in '{path}' holds NaN or Inf; download it again", code="extractor.not-finite"
            )
    network.load_state_dict(state)


@lru_cache(maxsize=64)
def _sha256(path: Path, modified: int, size: int) -> str:  # noqa: ARG001 (modified and size are the cache's key)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _download(wanted: WeightsFile, target: Path) -> str:
    """Fetch the file, and check it by its size and its digest; returns why not, empty if done."""
    if os.environ.get(OFFLINE_VARIABLE):
        return f"{OFFLINE_VARIABLE} is set"
    redirects = _Redirects()
    try:
        with (
            urllib.request.build_opener(redirects).open(wanted.source, timeout=TIMEOUT) as answer,
            atomic_path(target) as part,
        ):
            _log.warning("downloading %s to %s", wanted, target)
            length = answer.headers.get("Content-Length")
            digest = _copied(answer, part, wanted.name, int(length or 0))
            if length is not None and int(length) != part.stat().st_size:
                raise OSError(f"the download broke off after {part.stat().st_size} of {length} bytes")
            stated = wanted.sha256 or redirects.digest
            if not digest.startswith(stated):
                raise OSError(
                    f"its SHA-256 is {digest}, stated is {stated}: the file was damaged or changed on its way"
                )
            _log.warning("%s: SHA-256 %s%s", wanted.name, digest, ", as stated" if stated else "; none is stated")
    except (OSError, urllib.error.URLError, ValueError) as error:
        return f"downloading it failed: {error}"
    return ""


def _copied(answer: Any, part: Path, name: str, total: int) -> str:
    """Write an answer to a file with a bar of progress; returns its SHA-256, hex."""
    digest = hashlib.sha256()
    with part.open("wb") as file, tqdm(desc=name, total=total or None, unit="B", unit_scale=True, disable=None) as bar:
        while block := answer.read(1 << 20):
            file.write(block)
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the SHA-256 that the Hugging Face hub states of a large file beside its own."""

    digest = ""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        stated = str(headers.get("X-Linked-ETag") or "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", stated):
            self.digest = stated
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_torchscript(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("constants.pkl") for name in archive.namelist()):
            raise ExtractorError(
                f"'{path}' is a TorchScript program, which is code, and is not read; take the plain weights, such as "
                "open_clip_model.safetensors of https://huggingface.co/timm/vit_base_patch16_clip_224.openai",
                code="extractor.unsafe",
            )


def _tensors(checkpoint: object, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    tensors = (
        {str(key): value for key, value in checkpoint.items() if isinstance(value, Tensor)}
        if isinstance(checkpoint, Mapping)
        else {}
    )
    if not tensors:
        raise ExtractorError(
            f"'{path}' holds no weights, but a {type(checkpoint).__name__}; is it another file?", code="extractor.empty"
        )
    return tensors


def _damaged(path: Path, error: Exception) -> ExtractorError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ExtractorError(
        f"'{path}' is damaged or no file of weights ({first[:200]}); download it again", code="extractor.damaged"
    )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_LISTED]) + (", …" if len(keys) > _LISTED else "")


class _Inert:
    """Stands for every Python object in a checkpoint that is not a tensor; takes all and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *_args: object, **_kwargs: object) -> _Inert:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    def add(self, value: object) -> None:
        pass


class _InertPickle:
    """What `torch.load` takes for the pickle module: it builds tensors and plain containers, nothing else."""

    ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_parameter"),
            ("torch", "Size"),
        }
    )

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(module, name) if (module, name) in _InertPickle.ALLOWED else _Inert

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _InertPickle.Unpickler(file, **options).load()
