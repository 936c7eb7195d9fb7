"""The border between ROS and the package: what goes wrong becomes an answer, and the node lives."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from feature_gs_ros.core.errors import FeatureGsError, StoppedError, UnavailableError
from feature_gs_ros.msg import Answer

INTERNAL = "internal"  # the code of what nobody foresaw


@contextmanager
def answering(answer: Any, log: Any) -> Iterator[None]:
    """What is raised in the block ends as a state and a message of ``answer``; what nobody foresaw goes to the log."""
    try:
        yield
    except (UnavailableError, StoppedError) as error:
        answer.state, answer.code, answer.message = Answer.UNAVAILABLE, error.code, str(error)
    except FeatureGsError as error:
        answer.state, answer.code, answer.message = Answer.INVALID, error.code, str(error)
    except Exception as error:  # an exception that leaves a callback ends the process
        answer.state, answer.code, answer.message = Answer.UNAVAILABLE, INTERNAL, _unforeseen(error, log)


@contextmanager
def reporting(response: Any, log: Any) -> Iterator[None]:
    """The same for responses of ``success`` and ``message``, and ``code`` where they are of this package."""
    code = ""
    try:
        yield
    except FeatureGsError as error:
        response.success, response.message, code = False, str(error), error.code
    except Exception as error:  # as above
        response.success, response.message, code = False, _unforeseen(error, log), INTERNAL
    if hasattr(response, "code"):  # std_srvs/Trigger has none
        response.code = code


def guarding(response: Any, log: Any) -> AbstractContextManager[None]:
    """`answering` or `reporting`, by what the response or result has."""
    return answering(response.answer, log) if hasattr(response, "answer") else reporting(response, log)


def succeeded(response: Any) -> bool:
    """Whether what was asked for was done, or answered."""
    if hasattr(response, "answer"):
        return response.answer.state in (Answer.FOUND, Answer.NOT_FOUND, Answer.NOT_OBSERVED)
    return bool(response.success)


def explain(error: BaseException, log: Any) -> str:
    """One line about an error; the traceback of one that nobody foresaw goes to the log."""
    return str(error) if isinstance(error, FeatureGsError) else _unforeseen(error, log)


def _unforeseen(error: BaseException, log: Any) -> str:
    log.error("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    return f"internal error, see the log: {type(error).__name__}: {error}"
