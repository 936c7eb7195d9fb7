"""Libraries of the large extractors, imported when one is made and not before; mending a torchvision that broke."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import torch

from feature_gs_ros.core.errors import ExtractorError

# Operators that torchvision's Python part names at import, whether or not its compiled part could be loaded.
_NAMED_AT_IMPORT = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_stand_ins: list[torch.library.Library] = []  # an operator lives as long as the library that defines it


def import_library(module: str, package: str) -> ModuleType:
    """The module, whose torchvision may be one that does not fit the installed torch.

    Args:
        module: its import name, e.g. ``open_clip``.
        package: what pip calls it.

    Raises:
        ExtractorError: it is not installed, or broken; the message says how to fix it.
    """
    try:
        _mend_torchvision()
        return importlib.import_module(module)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name is not None
        what = f"'{error.name}' is not installed" if absent else f"importing it says: {str(error).splitlines()[0]}"  # type: ignore[union-attr]
        raise ExtractorError(
            f"this extractor needs {package}, and {what}; pip install 'feature_gs_ros[models]', and on a machine "
            "without CUDA take torchvision from where torch came from: "
            "pip install --force-reinstall --no-deps torchvision --index-url https://download.pytorch.org/whl/cpu",
            code="extractor.package",
        ) from error


def installed(module: str) -> bool:
    """Whether the module could be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def _mend_torchvision() -> None:
    """Let torchvision be imported where its compiled operators can't be loaded.

    That is so for a CUDA build beside a CPU torch, which PyPI gives: its import stops at ``operator torchvision::nms
    does not exist``. With the operators' names declared, its Python part works; the extractors' libraries need no more.
    """
    if not installed("torchvision") or _stand_ins:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in _NAMED_AT_IMPORT:
            library.define(name + _SCHEMA)
        _stand_ins.append(library)
        importlib.import_module("torchvision")
