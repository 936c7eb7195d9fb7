"""What a test expects of an error: its stable code, and the values, limits or names that it has to quote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from feature_gs_ros.core.errors import FeatureGsError


@contextmanager
def raises(code: str, *quoted: object) -> Iterator[pytest.ExceptionInfo[FeatureGsError]]:
    """The block raises an error of ours with this code (or one of ``a.b|a.c``), whose message holds ``quoted``."""
    with pytest.raises(FeatureGsError) as caught:
        yield caught
    error = caught.value
    assert error.code in code.split("|"), f"{error.code}: {error}"
    missing = [str(part) for part in quoted if str(part) not in str(error)]
    assert not missing, f"{missing} not in: {error}"
