"""What launch files make of their arguments, which are words. Imports nothing of ROS."""

from __future__ import annotations

from feature_gs_ros.core.errors import ParameterError
from feature_gs_ros.core.text import shown

YES, NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def truth(name: str, word: str) -> bool:
    """The argument as a truth value, in any usual spelling: ``True``, ``true``, ``1``, ``yes``, ``on`` and so on.

    Raises:
        ParameterError: it is none.
    """
    for words, meaning in ((YES, True), (NO, False)):
        if word.strip().lower() in words:
            return meaning
    raise ParameterError(f"launch argument {name} is {shown(word)}, expected true or false", code="parameter.truth")
