"""A document's example as an installed package: a module and its metadata on the path."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def install(
    folder: Path, document: str, name: str, group: str, monkeypatch: pytest.MonkeyPatch, further: str = ""
) -> str:
    """``my_package``, of the Python block of a document that defines the class ``name``; the block.

    Args:
        folder: that is put on the path.
        document: below docs/, with the lines of pyproject.toml for the entry points of ``group``.
        further: lines of entry points besides.
    """
    text = (DOCS / document).read_text("utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"class {name}" in block)
    (entries,) = re.findall(rf'"{re.escape(group)}"\]\n(.*?)\n```', text, re.DOTALL)
    (folder / "my_package.py").write_text(code)
    metadata = folder / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n" + entries.replace('"', "") + "\n" + further)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("my_package", None)
    return str(code)
