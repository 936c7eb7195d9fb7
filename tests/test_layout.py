"""The layout of docs/design.md: every folder is listed there, imports go one way, and backends keep to themselves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "feature_gs_ros"
DESIGN = ROOT / "docs" / "design.md"
BACKENDS = ("cpu", "cuda")
LONGEST = 600  # lines


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def listed() -> list[str]:
    """The folders and files at the top of the package, in the document's order."""
    block = DESIGN.read_text(encoding="utf-8").split("## Layout")[1].split("```")[1]
    return [re.split(r"\s+", line)[0].rstrip("/") for line in block.strip().splitlines()]


def imported_modules(file: Path) -> set[str]:
    """Dotted names below the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            found |= {f"{node.module}.{entry.name}".split(".", 1)[1] for entry in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                name.split(".", 1)[1] for entry in node.names if (name := entry.name).startswith(f"{PACKAGE.name}.")
            }
    return found


@pytest.mark.skipif(not DESIGN.is_file(), reason="an installed package has no documents")
def test_every_folder_is_listed_and_imports_from_those_above_it() -> None:
    order = {name: number for number, name in enumerate(listed())}
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(order) == there - {"__init__"}
    down = set()
    for file in files():
        within = file.relative_to(PACKAGE).as_posix()
        own = within.split("/")[0].removesuffix(".py")
        others = {name.split(".")[0] for name in imported_modules(file)} & set(order)
        down |= {(within, other) for other in others if order[other] > order.get(own, len(order))}
    assert down == set()


def test_nobody_outside_a_backends_folder_imports_from_inside_it() -> None:
    guilty = {
        (file.relative_to(PACKAGE).as_posix(), name)
        for file in files()
        for backend in BACKENDS
        for name in imported_modules(file)
        if not file.is_relative_to(PACKAGE / "rasterizer" / backend) and name.startswith(f"rasterizer.{backend}.")
    }
    assert guilty == {("rasterizer/__init__.py", "rasterizer.cpu.CpuBackend")}


def test_only_ros_imports_rclpy() -> None:
    guilty = [
        file.relative_to(PACKAGE).as_posix()
        for file in files()
        if re.search(r"^\s*(import|from) (rclpy|tf2_ros)", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert {name.split("/")[0] for name in guilty} <= {"ros"}


def test_no_file_is_longer_than_a_person_reads_at_once() -> None:
    assert {file.name: count for file in files() if (count := len(file.read_text().splitlines())) > LONGEST} == {}
