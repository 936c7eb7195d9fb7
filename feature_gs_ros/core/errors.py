"""Every error that this package raises on purpose.

A message names the value, the limit and the mend. The command line prints it as one line and exits
with 2; a ROS service puts it into ``message`` with state *invalid*; a library caller catches it.
"""

from __future__ import annotations


class FeatureGsError(Exception):
    """Base of all errors raised on purpose."""


class MapError(FeatureGsError):
    """A splat file or its Gaussians can't be used."""


class CameraError(FeatureGsError):
    """Intrinsics, distortion or a pose can't be used."""


class AlignmentError(FeatureGsError):
    """The transform between the splat's frame and the map frame can't be used."""


class StreamError(FeatureGsError):
    """A recorded stream of posed images can't be read."""


class ImageError(StreamError):
    """One image of a stream can't be decoded, or isn't what its camera says; the others may be fine."""


class NoTransformError(StreamError):
    """The tf tree has no transform between two frames at a stamp; the message is short, to count by."""


class GridError(FeatureGsError):
    """A feature grid, or the mask that goes with it, doesn't fit its image."""


class BackendError(FeatureGsError):
    """The rasteriser asked for can't run on this machine."""


class ExtractorError(FeatureGsError):
    """A teacher is unknown, its weights are missing or it can't take this image."""


class UnknownPromptError(ExtractorError):
    """The teacher has no embedding for a prompt; ``nearest`` holds known words that come close."""

    def __init__(self, message: str, nearest: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.nearest = nearest


class FieldError(FeatureGsError):
    """A feature field is damaged, or belongs to another map or teacher."""


class BudgetError(FeatureGsError):
    """The work would need more memory than it may take."""


class PromptError(FeatureGsError):
    """A prompt, threshold or point can't be asked for."""


class IdentityError(FeatureGsError):
    """Identity codes, or the instances they stand for, can't be made or told apart."""


class EvaluationError(FeatureGsError):
    """Masks, labels and stream don't fit together."""


class ParameterError(FeatureGsError):
    """A parameter of a ROS node can't be used."""


class AffordanceError(FeatureGsError):
    """A source image, its mask or a library of them can't be used for affordance transfer."""


class EditError(FeatureGsError):
    """An edit selects nothing or everything, or its record doesn't fit the map."""


class OptionError(FeatureGsError):
    """An option or environment variable can't be used: out of range, or a file to write that is also read."""


class StoppedError(FeatureGsError):
    """Long work was asked to stop by its progress before there was anything worth keeping."""


class TrainingError(FeatureGsError):
    """Training can't start, or diverged; what was good before is kept."""
