"""What every error promises: a code that stays, and a message that a terminal may show whatever a file put in it."""

from __future__ import annotations

import ast
import copy
import pickle
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_gs_ros.core import errors
from feature_gs_ros.core.errors import FeatureGsError, MapError, UnknownPromptError, error_of_code
from feature_gs_ros.core.text import MAX_MESSAGE, MAX_VALUE, printable, shown

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FeatureGsError)]


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes) > 15
    assert all(code.isascii() and code == code.lower() and " " not in code for code in codes)


def test_every_code_is_listed_in_the_document() -> None:
    """Also those of raises that no test reaches: the last word of each stands in docs/conventions.md."""
    root = Path(errors.__file__).parents[2]
    document = (root / "docs" / "conventions.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([a-z-]+)`", document.partition("## Errors")[2].partition("\n## ")[0]))
    classes = {kind.code for kind in CLASSES}
    for path in sorted((root / "feature_gs_ros").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = {word.arg: word.value for word in call.keywords} if isinstance(call, ast.Call) else {}
            code = getattr(words.get("code"), "value", None)
            if isinstance(call, ast.Call) and isinstance(code, str) and getattr(call.func, "id", "").endswith("Error"):
                kind = vars(errors)[call.func.id].code  # type: ignore[attr-defined]
                assert f"{code}.".startswith(f"{kind}."), f"{path}: {code} of {kind}"
                assert code in classes or code.rpartition(".")[2] in listed, f"{path}: {code}"


def test_a_raise_may_give_a_more_specific_code() -> None:
    assert MapError("truncated", code="map.damaged").code == "map.damaged"
    assert MapError("truncated").code == MapError.code == "map"
    assert UnknownPromptError("no word", ("mug",), code="prompt.empty").nearest == ("mug",)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_code_from_elsewhere_is_the_error_of_its_class(kind: type[FeatureGsError]) -> None:
    for code in (kind.code, f"{kind.code}.some.case"):
        error = error_of_code(code, "what is wrong")
        assert (type(error), error.code, str(error)) == (kind, code, "what is wrong")
    assert type(error_of_code("of.a.later.version", "")) is FeatureGsError
    assert error_of_code("mapping", "").code == "mapping", "not of the class whose code is map"


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_survive_copies_and_other_processes(kind: type[FeatureGsError]) -> None:
    error = kind("what is wrong", code="a.b")
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(again), str(again), again.code) == (kind, "what is wrong", "a.b")


@given(st.text(alphabet=st.characters(), max_size=200))
def test_messages_are_one_line_without_controls(text: str) -> None:
    message = str(FeatureGsError(f"'{text}' is wrong"))
    assert not [c for c in message if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    message.encode("utf-8")


def test_escapes_directions_and_stray_bytes_are_written_out() -> None:
    assert printable("a\x1b[31m\u202eb\x9b\n") == "a\\x1b[31m\\u202eb\\x9b\\n"
    assert printable(b"caf\xe9".decode("utf-8", "surrogateescape")) == "caf\\xe9"
    assert printable("café 猫 →\tx\ny", lines=True) == "café 猫 →\tx\ny"


def test_messages_and_values_are_bounded() -> None:
    assert len(str(MapError("x" * 10**6))) <= MAX_MESSAGE
    nested: list[object] = ["lol"]
    for _ in range(60):  # 9 ** 60 entries if it were walked
        nested = [nested] * 9
    for value in (nested, {"key": nested}, "x" * 10**6, 10**5000, [0] * 10**6, -(10**400)):
        assert len(shown(value)) <= MAX_VALUE
    assert shown({"a": [1, 2.5]}) == "{'a': [1, 2.5]}"
    assert shown("mug") == "'mug'"
