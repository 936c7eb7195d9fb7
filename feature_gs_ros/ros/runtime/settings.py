"""The parameters of a node as values: read and checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feature_gs_ros.backprojection.field import FORMAT as FIELD
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.looks import LookLimits
from feature_gs_ros.core.errors import FieldError, ParameterError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.text import shown
from feature_gs_ros.editing.stack import FORMAT as STACK
from feature_gs_ros.extractors import extractor_names, extractor_of, make_extractor
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.alignment import load_alignment, sim3_from_mapping
from feature_gs_ros.io.data_folder import DataFolder
from feature_gs_ros.io.formats import format_of
from feature_gs_ros.io.structured import parse_yaml
from feature_gs_ros.live.health import HealthLimits
from feature_gs_ros.live.keyframes import KeyframeLimits
from feature_gs_ros.live.live_field import edits_beside
from feature_gs_ros.rasterizer import get_backend
from feature_gs_ros.ros.ingest.camera_input import CameraSettings
from feature_gs_ros.ros.ingest.worker import IngestionLimits
from feature_gs_ros.ros.runtime.parameters import chosen, value

NO_TURN, NO_TURN_WXYZ = [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]
SAVED = "saved"  # in place of an extractor's name: that of the saved field


class Settings:
    """The parameters that are checked before anything is loaded."""

    def __init__(self, node: Any) -> None:
        """Read and check.

        Raises:
            FeatureGsError: one of them can't be used.
        """
        self.map_path = str(Path(value(node, "map")).expanduser())
        if not Path(self.map_path).is_file():
            raise ParameterError(
                f"parameter map: there is no file '{value(node, 'map')}'; give a splat map", code="parameter.unreadable"
            )
        self.map_frame = str(value(node, "map_frame"))
        if not self.map_frame:
            raise ParameterError("parameter map_frame is empty; name a frame of tf", code="parameter.empty")
        self.splat_from_map = _alignment(node)
        self.backend = get_backend(str(value(node, "backend")))
        self.extractor = chosen(node, "extractor", [*extractor_names(), SAVED])
        self.extractor_options = extractor_options(node)
        budget = float(value(node, "memory_budget"))
        self.budget = int(budget * 1e9) if budget > 0 else None
        self.looks = LookLimits(count=int(value(node, "looks")))
        self.collision_shape = chosen(node, "collision.shape", ("box", "hull"))
        self.threads = int(value(node, "threads"))
        self.health = HealthLimits(
            float(value(node, "diagnostics.period")),
            float(value(node, "diagnostics.max_dropped")),
            float(value(node, "diagnostics.max_latency")),
        )
        self.data = DataFolder(str(value(node, "data_dir")))
        self.field = str(value(node, "field"))
        self.library = self.data(str(value(node, "affordances")))
        self.field_path()
        names = list(value(node, "cameras"))
        if len(set(names)) != len(names):
            raise ParameterError(
                f"parameter cameras names a camera twice: {', '.join(names)}", code="parameter.duplicate"
            )
        chosen(node, "image_reliability", ("best_effort", "reliable"))
        self.cameras = [CameraSettings.read(node, name) for name in names]

    def field_path(self, name: str = "") -> Path:
        """The file of a learned field below data_dir, by default that of the parameter field.

        Raises:
            FieldError: the name leads out of data_dir, or to where something else is kept.
        """
        path = self.data(name or self.field)
        if path == edits_beside(path.with_suffix("")):
            raise FieldError(
                f"'{path}' is the name of a field's edits, which are written beside it; choose a name that "
                f"doesn't end in {path.suffix}",
                code="field.exists",
            )
        for parameter, taken in (("affordances", self.library), ("map", Path(self.map_path).resolve())):
            if taken in (path, edits_beside(path)):
                raise FieldError(
                    f"a field in '{path}', with its edits beside it, would overwrite '{taken}' of the parameter "
                    f"{parameter}; choose another name",
                    code="field.exists",
                )
        return path


def check_replaceable(path: Path) -> None:
    """A field may be written here, and its edits beside it, with no loss of another kind of file.

    Raises:
        FieldError: one stands there.
    """
    for file, expected, kind in ((path, FIELD, "learned field"), (edits_beside(path), STACK, "stack of edits")):
        if format_of(file) not in (None, expected):
            raise FieldError(
                f"'{file}' is there and is no {kind}, so it isn't replaced; choose another name", code="field.exists"
            )


def ingestion_limits(node: Any) -> IngestionLimits:
    """The parameters that may change while the node runs, as they are now."""
    return IngestionLimits(
        float(value(node, "tf_timeout")),
        float(value(node, "tf_max_gap")),
        float(value(node, "mask_tolerance")),
        KeyframeLimits(
            float(value(node, "keyframe.translation")),
            float(value(node, "keyframe.rotation")),
            float(value(node, "keyframe.min_interval")),
            float(value(node, "keyframe.max_interval")),
        ),
    )


def extractor_options(node: Any) -> dict[str, object]:
    """The parameter extractor_options.

    Raises:
        ParameterError: it is not a YAML mapping.
    """
    text = str(value(node, "extractor_options"))
    options = parse_yaml(text or "{}", "parameter extractor_options", ParameterError)
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ParameterError(
            f"parameter extractor_options is {shown(text)}, expected a mapping such as {{space: rgb}}",
            code="parameter.value",
        )
    return options


def extractor_of_settings(settings: Settings, field: FeatureField | None) -> Extractor:
    """The extractor that the parameters name, or that of the saved field.

    Raises:
        FeatureGsError: it is unknown, or can't be made, or there is no field.
    """
    if settings.extractor != SAVED:
        return make_extractor(settings.extractor, **settings.extractor_options)
    if field is None:
        raise ParameterError(
            f"parameter extractor is {SAVED}, but load_on_activate is false or '{settings.field}' isn't in "
            f"'{settings.data.path}': name an extractor, or put a learned field there",
            code="parameter.conflict",
        )
    return extractor_of(field.extractor, options=settings.extractor_options)


def _alignment(node: Any) -> Sim3:
    xyzw, wxyz = list(value(node, "splat_from_map.rotation_xyzw")), list(value(node, "splat_from_map.rotation_wxyz"))
    if wxyz != NO_TURN_WXYZ and xyzw != NO_TURN:
        raise ParameterError(
            "parameters splat_from_map.rotation_xyzw and .rotation_wxyz are both given; leave one out",
            code="parameter.conflict",
        )
    by_parameters = sim3_from_mapping(
        {
            "scale": float(value(node, "splat_from_map.scale")),
            **({"rotation_xyzw": xyzw} if wxyz == NO_TURN_WXYZ else {"rotation_wxyz": wxyz}),
            "translation": list(value(node, "splat_from_map.translation")),
        },
        "the parameters",
    )
    path = str(value(node, "alignment"))
    if not path:
        return by_parameters
    if not _is_identity(by_parameters):
        raise ParameterError(
            "parameters alignment and splat_from_map.* both give a transform; leave one out", code="parameter.conflict"
        )
    return load_alignment(Path(path).expanduser())


def _is_identity(transform: Sim3) -> bool:
    return transform.scale == 1 and transform.quat_wxyz[0] == 1 and not transform.translation.any()
