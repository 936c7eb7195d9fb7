"""How the tests on a real ROS find what the distribution has and a virtual environment hasn't."""

from __future__ import annotations

from pathlib import Path

from ros.run import borrowed


def test_only_the_modules_asked_for_are_borrowed(tmp_path: Path) -> None:
    for name in ("lark", "numpy", "yaml"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "em.py").touch()
    folder = borrowed(["em", "lark", "catkin_pkg"], tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["em.py", "lark"]
    assert (folder / "lark" / "__init__.py").is_file()
