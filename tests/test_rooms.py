"""The rooms of docs/design.md: all of them are listed there, imports go one way, and no file outgrows its room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "feature_gs_ros"
DESIGN = ROOT / "docs" / "design.md"
REACHING_DOWN = {  # as the document says
    ("alignment.py", "io"),
    ("messages/feature_grid.py", "extractors"),
    ("messages/feature_grid.py", "rasterizer"),
}
LONGEST = 300  # lines


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def lines_of_rooms() -> dict[str, int]:
    """The line of the document's list on which each room stands."""
    listed = DESIGN.read_text(encoding="utf-8").split("## Rooms")[1].split("```")[1].strip().splitlines()
    names = [re.split(r"\s{2,}", line)[0].split(" · ") for line in listed]
    return {name.rstrip("/"): number for number, row in enumerate(names) for name in row}


def imported_rooms(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            found |= {f"{node.module}.{entry.name}".split(".")[1] for entry in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.split(".")[1] for entry in node.names if (name := entry.name).startswith(f"{PACKAGE.name}.")}
    return found


@pytest.mark.skipif(not DESIGN.is_file(), reason="an installed package has no documents")
def test_every_room_is_listed_and_imports_from_those_above_it() -> None:
    line = lines_of_rooms()
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(line) == there - {"__init__"}
    down = set()
    for file in files():
        within = file.relative_to(PACKAGE).as_posix()
        room = within.split("/")[0].removesuffix(".py")
        down |= {(within, other) for other in imported_rooms(file) & set(line) if line[other] > line.get(room, -1)}
    assert down == REACHING_DOWN


def test_no_file_is_longer_than_a_person_reads_at_once() -> None:
    assert {file.name: count for file in files() if (count := len(file.read_text().splitlines())) > LONGEST} == {}
