"""What was found as MoveIt's collision objects, where moveit_msgs is: ~/collision_objects, ~/apply_planning_scene."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from shape_msgs.msg import Mesh, MeshTriangle, SolidPrimitive
from std_srvs.srv import Trigger

from feature_gs_ros.core.errors import AlignmentError, UnavailableError
from feature_gs_ros.frames.plane import largest_plane
from feature_gs_ros.query.hulls import convex_hull, plane_box
from feature_gs_ros.query.objects import FoundObject, OrientedBox
from feature_gs_ros.ros.convert.answers import header_message, point_message, pose_of
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.guard import reporting
from feature_gs_ros.ros.runtime.parameters import value
from feature_gs_ros.ros.runtime.qos import LATCHED
from feature_gs_ros.ros.services.service_group import ServiceGroup

try:
    from moveit_msgs.msg import CollisionObject, PlanningScene
    from moveit_msgs.srv import ApplyPlanningScene
except ImportError:
    CollisionObject = None

APPLY_TIMEOUT = 10.0  # s
SUPPORT = "support_plane"

Corners = NDArray[np.float64]  # [M, 3] metres, map frame


class CollisionScene:
    """The objects found so far, each under an id that stays with it; without moveit_msgs it does nothing.

    An object is replaced when it is found again, and removed when its word no longer finds it.
    """

    def __init__(self, node: Any, session: Callable[[], Session]) -> None:
        self._node, self._session = node, session
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[str, Any]] = {}  # id -> label, CollisionObject
        self._support: Any = None
        self._topic: Any = None
        self._services: ServiceGroup | None = None
        if CollisionObject is None:
            return
        self._topic = node.create_publisher(PlanningScene, "~/collision_objects", LATCHED)
        self._services = ServiceGroup(node, {"apply_planning_scene": (Trigger, self._apply)})
        self._move_group = node.create_client(
            ApplyPlanningScene, "apply_planning_scene", callback_group=MutuallyExclusiveCallbackGroup()
        )

    def close(self) -> None:
        """Undo what `__init__` did."""
        if self._services is not None:
            self._services.close()
            self._node.destroy_client(self._move_group)
            self._node.destroy_publisher(self._topic)

    def forget(self) -> None:
        """The map was left: its objects go."""
        with self._lock:
            gone = [_removed(identifier, entry.header) for identifier, (_, entry) in self._objects.items()]
            self._objects.clear()
            self._support = None
            if gone:
                self._topic.publish(_scene(gone))

    def update(
        self,
        session: Session,
        label: str,
        found: Sequence[FoundObject],
        ids: Sequence[str],
        points: Callable[[Any], Corners],
    ) -> None:
        """One answer to ``label``; nothing comes of one that is late, when its session was left.

        Args:
            session: that was asked.
            label: what was asked for.
            found: its objects, the largest first.
            ids: of each.
            points: gives the centres of some rows of the map.
        """
        if CollisionObject is None:
            return
        header = header_message(session.settings.map_frame, self._node.get_clock().now().to_msg())
        as_hull = session.settings.collision_shape == "hull"
        with self._lock:
            if session.left:
                return
            now = {f"object_{identifier}": entry for identifier, entry in zip(ids, found, strict=True)}
            gone = [name for name, (word, _) in self._objects.items() if word == label and name not in now]
            removed = [_removed(name, header) for name in gone]
            for name in gone:
                del self._objects[name]
            for name, entry in now.items():
                hull = convex_hull(points(entry.rows)) if as_hull else None
                self._objects[name] = label, _added(name, label, entry.box, hull, header)
            if self._support is None and value(self._node, "collision.support_plane"):
                self._support = _support(session, header)
            self._topic.publish(_scene([*self._everything(), *removed]))

    def _everything(self) -> list[Any]:
        """The objects that there are, as additions."""
        return [*([self._support] if self._support else []), *(entry for _, entry in self._objects.values())]

    def _apply(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        with reporting(response, self._node.get_logger()):
            self._session()
            if not self._move_group.wait_for_service(APPLY_TIMEOUT):
                raise UnavailableError(f"no service '{self._move_group.srv_name}'; start move_group, or remap it")
            with self._lock:
                objects = self._everything()
            done = threading.Event()
            future = self._move_group.call_async(ApplyPlanningScene.Request(scene=_scene(objects)))
            future.add_done_callback(lambda _: done.set())
            if not done.wait(APPLY_TIMEOUT):
                raise UnavailableError(f"'{self._move_group.srv_name}' doesn't answer within {APPLY_TIMEOUT:.0f} s")
            response.success = bool(future.result().success)
            response.message = f"{len(objects)} collision objects" if response.success else "move_group refused them"
        return response


def _scene(objects: Sequence[Any]) -> Any:
    scene = PlanningScene(is_diff=True)
    scene.robot_state.is_diff = True  # or an empty robot state would be taken for the robot's
    scene.world.collision_objects = list(objects)
    return scene


def _added(name: str, label: str, box: OrientedBox, hull: Any, header: Any) -> Any:
    """A box, or a hull of vertices [V, 3] and triangles [T, 3] in the map frame."""
    added = CollisionObject(header=header, id=name, operation=CollisionObject.ADD, pose=pose_of(box))
    added.type.key = label
    if hull is None:
        added.primitives = [SolidPrimitive(type=SolidPrimitive.BOX, dimensions=[float(side) for side in box.size])]
        added.primitive_poses = [Pose()]
        return added
    vertices, triangles = hull
    added.pose = Pose()
    mesh = Mesh(vertices=[point_message(vertex) for vertex in vertices])
    mesh.triangles = [MeshTriangle(vertex_indices=[int(k) for k in triangle]) for triangle in triangles]
    added.meshes, added.mesh_poses = [mesh], [Pose()]
    return added


def _removed(name: str, header: Any) -> Any:
    return CollisionObject(header=header, id=name, operation=CollisionObject.REMOVE)


def _support(session: Session, header: Any) -> Any:
    """The map's largest plane as a box, None where it has none."""
    gaussians = session.field.shown.gaussians
    try:
        normal, offset, _ = largest_plane(gaussians)
    except AlignmentError:
        return None
    box = plane_box(gaussians, normal, offset, session.settings.splat_from_map.inverse())
    return _added(SUPPORT, SUPPORT, box, None, header)
