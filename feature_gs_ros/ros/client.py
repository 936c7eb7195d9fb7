"""FeatureMapClient: asks a running feature_map from a plain Python program.

>>> from feature_gs_ros import FeatureMapClient
>>> with FeatureMapClient() as client:  # doctest: +SKIP
...     client.wait_until_active()
...     for mug in client.ask("coffee mug").objects:
...         print(mug.id, mug.center, mug.size)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Transform, Vector3
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from numpy.typing import ArrayLike, NDArray
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import ColorRGBA, Header
from std_srvs.srv import Trigger

from feature_gs_ros.action import Align as AlignAction
from feature_gs_ros.action import BackprojectBag
from feature_gs_ros.action import Edit as EditAction
from feature_gs_ros.action import Save as SaveAction
from feature_gs_ros.action import TransferAffordance as TransferAction
from feature_gs_ros.core.errors import ParameterError, UnavailableError
from feature_gs_ros.msg import Status
from feature_gs_ros.ros.connection import NOT_SAID, NodeConnection, done, refusal
from feature_gs_ros.ros.convert.images import image_message
from feature_gs_ros.ros.convert.plain import (
    EditResult,
    FoundAlignment,
    MapAnswer,
    NodeStatus,
    alignment_of,
    answer_of,
    pixels_of,
    status_of,
)
from feature_gs_ros.ros.runtime.qos import STATUS
from feature_gs_ros.srv import (
    AddAffordance,
    Edit,
    Load,
    QueryExample,
    QueryPoints,
    QueryText,
    QueryTexts,
    RenderView,
    Save,
    TransferAffordance,
)

TIMEOUT = 60.0  # s
Progress = Callable[[str, float], bool]  # gets a step as it begins, and the fraction done; True: cancel
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


class FeatureMapClient:
    """A node of its own, which spins in a thread of its own: a program needs no rclpy beside it.

    Every method may be called from any thread, waits for its answer, and raises what the node answered as an error of
    this package: of the class that the answer's code belongs to, `UnavailableError` where the node isn't active or no
    answer comes in time.

    Args:
        node: name of the feature_map that is asked, with its namespace.
        timeout: s that an answer is waited for.
        name: of the client's own node.
    """

    def __init__(
        self, node: str = "/feature_map", *, timeout: float = TIMEOUT, name: str = "feature_map_client"
    ) -> None:
        self.timeout = timeout
        self._connection = NodeConnection("/" + node.strip("/"), name)
        self._status: NodeStatus | None = None
        self._heard = threading.Condition()
        topic = f"{self._connection.target}/status"
        self._connection.node.create_subscription(Status, topic, self._on_status, STATUS)
        self._connection.start()

    def __enter__(self) -> FeatureMapClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._connection.close()

    # Whether it is there, and what it has learned

    def state(self) -> str:
        """The lifecycle's state: "unconfigured", "inactive", "active" or "finalized"."""
        return str(self._call(GetState, "get_state", GetState.Request()).current_state.label)

    def wait_until_active(self, timeout: float | None = None) -> None:
        """
        Raises:
            UnavailableError: it isn't active within the timeout.
        """
        self.wait_for_status(lambda _: True, timeout, "to be active")  # it is published while active

    def wait_for_views(self, count: int, timeout: float | None = None) -> NodeStatus:
        """Wait until the map has learned from ``count`` views.

        Raises:
            UnavailableError: it doesn't within the timeout.
        """
        return self.wait_for_status(lambda status: status.views >= count, timeout, f"to have {count} views")

    def wait_for_status(
        self, condition: Callable[[NodeStatus], bool], timeout: float | None = None, what: str = "to be so"
    ) -> NodeStatus:
        """The first status from now on for which something holds.

        Raises:
            UnavailableError: there is none within the timeout.
        """
        timeout = self.timeout if timeout is None else timeout
        with self._heard:
            self._status = None
            found = self._heard.wait_for(lambda: self._status is not None and condition(self._status), timeout)
            if found and self._status is not None:
                return self._status
            last = "it publishes no status" if self._status is None else f"its last status is {self._status}"
        raise UnavailableError(f"waited {timeout:g} s for '{self._connection.target}' {what}: {last}", code=NOT_SAID)

    def change_state(self, transition: str) -> bool:
        """ "configure", "activate", "deactivate" or "cleanup"; whether the node did so, its log says why not."""
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        return bool(self._call(ChangeState, "change_state", request).success)

    def set_parameter(self, name: str, value: bool | int | float | str) -> None:
        """
        Raises:
            ParameterError: the node refuses it.
        """
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParametersAtomically.Request(parameters=[parameter])
        result = self._call(SetParametersAtomically, "set_parameters_atomically", request).result
        if not result.successful:
            raise ParameterError(
                f"'{self._connection.target}' refuses {name}={value}: {result.reason}", code="parameter.refused"
            )

    # Questions

    def ask(
        self,
        text: str,
        negatives: Sequence[str] = (),
        *,
        threshold: float = 0.0,
        max_objects: int = 0,
        extent: str = "",
    ) -> MapAnswer:
        """Where is what the words say?

        Args:
            text: the prompt.
            negatives: what it is not.
            threshold: 0..1; 0 is the extractor's own.
            max_objects: the largest ones; 0 is the node's parameter.
            extent: "object" (grow what is found to the object that stands free there) or "part"; by the extractor.
        """
        request = QueryText.Request(
            text=text, negatives=list(negatives), threshold=float(threshold), max_objects=max_objects, extent=extent
        )
        return answer_of(self._done(QueryText, "query_text", request))

    def ask_all(
        self,
        texts: Sequence[str],
        negatives: Sequence[str] = (),
        *,
        threshold: float = 0.0,
        max_objects: int = 0,
        extent: str = "",
    ) -> dict[str, MapAnswer]:
        """The answers to several prompts, from one pass over the map. Arguments are those of `ask`."""
        request = QueryTexts.Request(
            texts=list(texts), negatives=list(negatives), threshold=float(threshold), max_objects=max_objects
        )
        request.extent = extent
        results = self._done(QueryTexts, "query_texts", request).results
        return {result.text: answer_of(result) for result in results}

    def click(
        self,
        points: ArrayLike,
        negatives: ArrayLike = (),
        *,
        camera: str = "",
        frame_id: str = "map",
        stamp_ns: int = 0,
        threshold: float = 0.0,
        max_objects: int = 0,
    ) -> MapAnswer:
        """What is it that these points are on?

        Args:
            points: [K, 3] in metres in ``frame_id``, or [K, 2] pixels of ``camera``.
            negatives: likewise, on what it is not.
            camera: name of the camera whose pixels they are.
            frame_id: any frame of tf.
            stamp_ns: of the image or of tf; 0 is the last one.
            threshold: 0..1; 0 is the extractor's own.
            max_objects: the largest ones; 0 is the node's parameter.
        """
        header = Header(frame_id="" if camera else frame_id, stamp=Time(nanoseconds=stamp_ns).to_msg())
        request = QueryPoints.Request(
            camera=camera,
            header=header,
            points=_points(points),
            negatives=_points(negatives),
            threshold=float(threshold),
            max_objects=max_objects,
        )
        return answer_of(self._done(QueryPoints, "query_points", request))

    def ask_example(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.bool_] | None = None,
        *,
        threshold: float = 0.0,
        max_objects: int = 0,
    ) -> MapAnswer:
        """Where is what looks like this image [H, W, 3], or like what the mask [H, W] marks on it?"""
        request = QueryExample.Request(
            image=image_message(image, "rgb8"),
            mask=_mask_message(mask),
            threshold=float(threshold),
            max_objects=max_objects,
        )
        return answer_of(self._done(QueryExample, "query_example", request))

    def add_affordance(
        self,
        affordance: str,
        mask: NDArray[np.bool_],
        *,
        image: NDArray[np.uint8] | None = None,
        camera: str = "",
        object_name: str = "",
    ) -> int:
        """Keep a marked part in the library; how many it holds then.

        Args:
            affordance: what is marked, e.g. "handle".
            mask: [H, W], true on the part.
            image: [H, W, 3] that is marked; None: the last frame of ``camera``.
            camera: name of a camera.
            object_name: what it belongs to, e.g. "mug".
        """
        request = AddAffordance.Request(
            affordance=affordance, object=object_name, camera=camera, mask=_mask_message(mask)
        )
        if image is not None:
            request.image = image_message(image, "rgb8")
        return int(self._done(AddAffordance, "add_affordance", request).sources)

    def find_affordances(
        self,
        affordance: str = "",
        *,
        on: str = "",
        k: int = 0,
        floor: float = 0.0,
        smooth: bool = True,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> MapAnswer:
        """Where on the map are parts like those that the library's images mark?

        Args:
            affordance: one of the library's; empty: all.
            on: search only on what these words find; empty: the whole map.
            k: nearest neighbours that vote; 0 is the default.
            floor: similarity below which a Gaussian belongs to nothing; 0 is the extractor's own.
            smooth: let neighbouring Gaussians agree.
            timeout: s; a whole map may take long.
            progress: gets steps as they begin and the fraction done of each; True cancels.

        Raises:
            StoppedError: it was cancelled.
        """
        asked = {"affordance": affordance, "object_text": on, "k": k, "floor": float(floor), "smooth": smooth}
        kinds = TransferAffordance, TransferAction
        return answer_of(self._slow(*kinds, "transfer_affordance", asked, progress, timeout))

    # Edits

    def delete(self, text: str, **options: Any) -> EditResult:
        """Leave what the words find out of the map.

        Options of all edits are fields of Edit.srv, and ``progress``, which gets steps as they begin and the fraction
        done of each; True cancels: `StoppedError`, and nothing is changed, unless the edit was made already.
        """
        return self._edit(Edit.Request.DELETE, text=text, **options)

    def extract(self, text: str, **options: Any) -> EditResult:
        """Leave everything else out."""
        return self._edit(Edit.Request.EXTRACT, text=text, **options)

    def recolor(self, text: str, rgb: Sequence[float], **options: Any) -> EditResult:
        """Give what the words find a colour, [3] of 0..1."""
        red, green, blue = (float(value) for value in rgb)
        return self._edit(Edit.Request.RECOLOR, text=text, color=ColorRGBA(r=red, g=green, b=blue, a=1.0), **options)

    def move(
        self,
        text: str,
        translation: Sequence[float] = (0.0, 0.0, 0.0),
        quat_xyzw: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
        scale: float = 1.0,
        **options: Any,
    ) -> EditResult:
        """Move, turn and scale what the words find: metres in the map frame, about its centroid."""
        by = Vector3(**dict(zip("xyz", map(float, translation), strict=True)))
        turn = Quaternion(**dict(zip("xyzw", map(float, quat_xyzw), strict=True)))
        moved = Transform(translation=by, rotation=turn)
        return self._edit(Edit.Request.MOVE, text=text, moved=moved, scale=float(scale), **options)

    def undo(self, *, progress: Progress | None = None) -> EditResult:
        """Take the last edit back."""
        return self._edit(Edit.Request.UNDO, progress=progress)

    def redo(self, *, progress: Progress | None = None) -> EditResult:
        """Do it again."""
        return self._edit(Edit.Request.REDO, progress=progress)

    # Images, files, recordings

    def render(
        self,
        content: str = "color",
        *,
        map_from_camera: NDArray[np.float64] | None = None,
        camera_info: CameraInfo | None = None,
        camera: str = "",
        frame_id: str = "map",
        text: str = "",
        **options: Any,
    ) -> NDArray[Any]:
        """An image of the map: [H, W, 3] uint8 of "color" or "features", [H, W] uint8 of "mask", float32 of the others.

        Args:
            content: "color", "depth" [m], "features", "similarity" or "mask".
            map_from_camera: pose [4, 4] of the optical frame in ``frame_id``; None: that of the camera's last frame.
            camera_info: K and size; None: those of ``camera``.
            camera: name of a camera.
            frame_id: any frame of tf.
            text: of "similarity" and "mask".
            options: further fields of RenderView.srv.
        """
        number = getattr(RenderView.Request, content.upper())
        request = RenderView.Request(content=number, camera=camera, text=text, **options)
        if camera_info is not None:
            request.camera_info = camera_info
        if map_from_camera is not None:
            request.pose = _pose_message(map_from_camera, frame_id)
        return pixels_of(self._done(RenderView, "render_view", request).image)

    def save(self, path: str = "", *, progress: Progress | None = None, timeout: float | None = None) -> Path:
        """Write the field below the node's data_dir; the whole path on its host.

        Args:
            path: relative to data_dir; empty: the node's parameter field.
            progress: gets steps as they begin; True cancels.
            timeout: s.

        Raises:
            StoppedError: it was cancelled; a file that was there before is as it was.
        """
        return Path(self._slow(Save, SaveAction, "save", {"path": path}, progress, timeout).message)

    def load(self, path: str = "") -> str:
        """Go on from a saved field; a line for a person."""
        return str(self._done(Load, "load", Load.Request(path=path)).message)

    def reset(self) -> str:
        """Forget all views; a line for a person."""
        return str(self._done(Trigger, "reset", Trigger.Request()).message)

    def republish(self) -> str:
        """Publish the map and the last answer once more; a line for a person."""
        return str(self._done(Trigger, "republish", Trigger.Request()).message)

    def backproject_bag(
        self,
        path: str,
        *,
        every: int = 1,
        image_topics: Sequence[str] = (),
        progress: Callable[[int, int], bool] = lambda done, total: False,  # noqa: ARG005
        timeout: float = 3600.0,
    ) -> dict[str, int]:
        """A recording below the node's data_dir onto the map; the frames used, and those skipped by reason.

        Args:
            path: of the recording, relative to data_dir.
            every: takes every n-th frame.
            image_topics: empty: one of each colour camera.
            progress: gets frames done and in all; True cancels, and what is done stays.
            timeout: s.

        Raises:
            FeatureGsError: it can't be done.
        """
        goal = {"path": path, "every": every, "image_topics": list(image_topics)}

        def hear(feedback: Any) -> bool:
            return progress(int(feedback.done), int(feedback.total))

        result = self._connection.act(BackprojectBag, "backproject_bag", goal, hear, timeout)
        if result.code:
            raise refusal(result)
        return {"used": int(result.used), **{count.reason: int(count.count) for count in result.frames_skipped}}

    def align(
        self,
        path: str = "",
        *,
        search: bool = False,
        save: str = "",
        image_topics: Sequence[str] = (),
        progress: Progress | None = None,
        timeout: float = 600.0,
    ) -> FoundAlignment:
        """``splat_from_map`` by images: the last live ones, or a recording's; the node's own alignment stays.

        Args:
            path: of a recording, relative to data_dir; empty: the last live images.
            search: look anywhere in the map; False starts at the node's own alignment, which must be near.
            save: alignment file to write, relative to data_dir; empty: none.
            image_topics: of the recording; empty: one of each colour camera.
            progress: gets steps as they begin and the fraction of them that is done; True cancels.
            timeout: s.

        Raises:
            AlignmentError: the images are too few, or show nothing of the map.
            StoppedError: it was cancelled.
        """
        goal = {"path": path, "image_topics": list(image_topics), "search": search, "save": save}

        def hear(feedback: Any) -> bool:
            fraction = feedback.done / max(int(feedback.total), 1)
            return progress is not None and progress(feedback.step, fraction)

        return alignment_of(done(self._connection.act(AlignAction, "align", goal, hear, timeout)))

    # How

    def _edit(self, operation: int, *, progress: Progress | None = None, **options: Any) -> EditResult:
        response = self._slow(Edit, EditAction, "edit", {"operation": operation, **options}, progress, None)
        return EditResult(response.answer.message, int(response.gaussians), response.undo)

    def _slow(
        self,
        service: Any,
        action: Any,
        name: str,
        fields: dict[str, Any],
        progress: Progress | None,
        timeout: float | None,
    ) -> Any:
        """What is there as a service and as an action: by the action where its progress is asked for.

        Raises:
            FeatureGsError: it can't be done.
        """
        if progress is None:
            return self._done(service, name, service.Request(**fields), timeout)

        def hear(feedback: Any) -> bool:
            return progress(feedback.step, feedback.fraction)

        timeout = self.timeout if timeout is None else timeout
        return done(self._connection.act(action, name, fields, hear, timeout))

    def _done(self, kind: Any, name: str, request: Any, timeout: float | None = None) -> Any:
        """A response.

        Raises:
            FeatureGsError: it says that it can't be done, or answered.
        """
        return done(self._call(kind, name, request, timeout))

    def _call(self, kind: Any, name: str, request: Any, timeout: float | None = None) -> Any:
        return self._connection.call(kind, name, request, self.timeout if timeout is None else timeout)

    def _on_status(self, message: Any) -> None:
        with self._heard:
            self._status = status_of(message)
            self._heard.notify_all()


def _points(points: ArrayLike) -> list[Any]:
    rows = np.asarray(points, dtype=np.float64)
    rows = rows.reshape(-1, rows.shape[-1]) if rows.size else rows.reshape(0, 3)
    return [Point(**dict(zip("xyz", map(float, row), strict=False))) for row in rows]


def _mask_message(mask: NDArray[np.bool_] | None) -> Any:
    return ImageMessage() if mask is None else image_message(np.asarray(mask).astype(np.uint8) * 255, "mono8")


def _pose_message(map_from_camera: NDArray[np.float64], frame_id: str) -> Any:
    from feature_gs_ros.core.geometry import quat_wxyz_from_rotation  # brings torch

    w, x, y, z = (float(value) for value in quat_wxyz_from_rotation(map_from_camera[:3, :3]))
    (at,) = _points(map_from_camera[:3, 3])
    pose = Pose(position=at, orientation=Quaternion(x=x, y=y, z=z, w=w))
    return PoseStamped(header=Header(frame_id=frame_id), pose=pose)
