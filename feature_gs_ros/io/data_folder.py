"""DataFolder: the only folder in which services read and write files."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.core.errors import FieldError, ParameterError


class DataFolder:
    """A folder that no path asked for can leave.

    Raises:
        ParameterError: the folder can't be made.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path = self.path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ParameterError(
                f"parameter data_dir '{path}' can't be used: {error}", code="parameter.value"
            ) from error

    def __call__(self, name: str) -> Path:
        """The whole path of a file asked for; links are followed before it is judged.

        Raises:
            FieldError: no name, or one that leads out of the folder.
        """
        # A ~ would become a folder of that name, not the home folder that is meant.
        if not name.strip() or "\0" in name or name.startswith("~"):
            raise FieldError(f"{name!r} can't name a file; give a path below data_dir, {self.path}", code="field.name")
        try:
            path = (self.path / name).resolve()
        except (OSError, RuntimeError) as error:
            raise FieldError(f"{name!r} can't name a file: {error}", code="field.name") from error
        if self.path not in path.parents:
            raise FieldError(f"'{name}' leads out of data_dir ('{self.path}'); give a path below it", code="field.name")
        return path
