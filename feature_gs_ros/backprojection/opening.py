"""A saved field with the map that it belongs to."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.splats.registry import load_map


def open_field(path: Path, map_path: Path | None = None) -> tuple[FeatureField, GaussianMap]:
    """A field and its map: the file given, else the one that the field names.

    Raises:
        FieldError: the field is damaged, its map isn't where it was, or is another one.
        MapError: the map can't be read.
    """
    field = FeatureField.load(path)
    gaussians = load_map(find_map(path, field, map_path))
    field.check_map(gaussians)
    return field, gaussians


def find_map(path: Path, field: FeatureField, map_path: Path | None = None) -> Path:
    """The map file of a field that was read from ``path``: the one given, the one that it names, or one beside it.

    Raises:
        FieldError: it isn't there.
    """
    source = map_path or Path(field.provenance.map_path)
    if map_path is None and not source.is_file():
        # Fields and maps move together: look beside the field too.
        beside = path.parent / source.name
        if not beside.is_file():
            raise FieldError(
                f"the map '{source}' of the field '{path}' no longer exists; give it with --map FILE",
                code="field.missing",
            )
        source = beside
    return source
