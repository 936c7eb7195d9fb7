"""Language-guided editing (Feature 3DGS, section 4.3): delete, extract, recolour or move what a prompt selects."""

from feature_gs_ros.editing.operations import Delete, EditedMap, Extract, Move, Operation, Recolor
from feature_gs_ros.editing.selection import Selection, select_example, select_text
from feature_gs_ros.editing.stack import Edit, EditStack

__all__ = [
    "Delete",
    "Edit",
    "EditStack",
    "EditedMap",
    "Extract",
    "Move",
    "Operation",
    "Recolor",
    "Selection",
    "select_example",
    "select_text",
]
