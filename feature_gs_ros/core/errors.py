"""Every error that this package raises on purpose.

A message says what is wrong and how to fix it: the value, the limit, the remedy. The command line prints it as one
line and exits with 2; a ROS service puts it into ``message`` with state *invalid*; a library caller catches it.
Programs and tests match the class or ``code``, not the sentence.
"""

from __future__ import annotations

from feature_gs_ros.core.text import MAX_MESSAGE, printable


class FeatureGsError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        code: what went wrong, stable over versions while sentences change: the class's own ("map"), or a more
            specific one that begins with it ("map.damaged") where a caller may want to tell the cases apart.
    """

    code: str = "error"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        # Names and values in a message come from files and messages of others, and end in terminals and logs.
        super().__init__(printable(message, limit=MAX_MESSAGE))
        if code is not None:
            self.code = code


def error_of_code(code: str, message: str) -> FeatureGsError:
    """The error that a code from elsewhere, such as a service's answer, stands for: of the class that it belongs to."""
    kinds = [FeatureGsError]
    for kind in kinds:  # grows with the subclasses of what it holds
        kinds += kind.__subclasses__()
    fitting = [kind for kind in kinds if f"{code}.".startswith(f"{kind.code}.")]
    return max(fitting, key=lambda kind: len(kind.code), default=FeatureGsError)(message, code=code or None)


class MapError(FeatureGsError):
    """A splat file or its Gaussians can't be used."""

    code = "map"


class CameraError(FeatureGsError):
    """Intrinsics, distortion or a pose can't be used."""

    code = "camera"


class AlignmentError(FeatureGsError):
    """The transform between the splat's frame and the map frame can't be used."""

    code = "alignment"


class StreamError(FeatureGsError):
    """A recorded stream of posed images can't be read."""

    code = "stream"


class ImageError(StreamError):
    """One image of a stream can't be decoded, or isn't what its camera says; the others may be fine."""

    code = "image"


class NoTransformError(StreamError):
    """The tf tree has no transform between two frames at a stamp; the message is short, to count by."""

    code = "transform"


class GridError(FeatureGsError):
    """A feature grid, or the mask that goes with it, doesn't fit its image."""

    code = "grid"


class BackendError(FeatureGsError):
    """The rasteriser asked for can't run on this machine."""

    code = "backend"


class ExtractorError(FeatureGsError):
    """An extractor is unknown, its weights are missing or it can't take this image."""

    code = "extractor"


class UnknownPromptError(ExtractorError):
    """The extractor has no embedding for a prompt; ``nearest`` holds known words that come close."""

    code = "prompt.unknown"

    def __init__(self, message: str, nearest: tuple[str, ...] = (), *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.nearest = nearest


class FieldError(FeatureGsError):
    """A feature field is damaged, or belongs to another map or extractor."""

    code = "field"


class BudgetError(FeatureGsError):
    """The work would need more memory than it may take."""

    code = "budget"


class OutOfMemoryError(FeatureGsError):
    """A device had no room for the work; what was accumulated before is intact."""

    code = "memory"


class PromptError(FeatureGsError):
    """A prompt, threshold or point can't be asked for."""

    code = "prompt"


class IdentityError(FeatureGsError):
    """Identity codes, or the instances they stand for, can't be made or told apart."""

    code = "identity"


class EvaluationError(FeatureGsError):
    """Masks, labels and stream don't fit together."""

    code = "evaluation"


class ParameterError(FeatureGsError):
    """A parameter of a ROS node can't be used."""

    code = "parameter"


class AffordanceError(FeatureGsError):
    """A source image, its mask or a library of them can't be used for affordance transfer."""

    code = "affordance"


class EditError(FeatureGsError):
    """An edit selects nothing or everything, or its record doesn't fit the map."""

    code = "edit"


class OptionError(FeatureGsError):
    """An option or environment variable can't be used: out of range, or a file to write that is also read."""

    code = "option"


class BusyError(FeatureGsError):
    """Another process is changing the same file."""

    code = "busy"


class UnavailableError(FeatureGsError):
    """A node can't be asked this now: it isn't active, isn't there, or doesn't answer."""

    code = "unavailable"


class StoppedError(FeatureGsError):
    """Long work was asked to stop by its progress before there was anything worth keeping."""

    code = "stopped"


class TrainingError(FeatureGsError):
    """Training can't start, or diverged; what was good before is kept."""

    code = "training"


class DistributedError(FeatureGsError):
    """Processes that work together can't meet, or one of them ended."""

    code = "distributed"
