"""The node feature_map: a lifecycle node that owns the map's learned features."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType

from feature_gs_ros.core.errors import UnavailableError
from feature_gs_ros.live.warmup import warm_up
from feature_gs_ros.numerics.streams import stay_on
from feature_gs_ros.ros.convert.status import diagnostics_message, status_message
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.bond import Bond
from feature_gs_ros.ros.runtime.guard import explain
from feature_gs_ros.ros.runtime.lifecycle import RefusingLifecycleNode, transition
from feature_gs_ros.ros.runtime.parameter_table import FEATURE_MAP, camera_parameters
from feature_gs_ros.ros.runtime.parameters import declare, value
from feature_gs_ros.ros.runtime.publishers import Publishers
from feature_gs_ros.ros.runtime.run import run
from feature_gs_ros.ros.runtime.settings import Settings
from feature_gs_ros.ros.services.affordances import Affordances
from feature_gs_ros.ros.services.align_action import AlignAction
from feature_gs_ros.ros.services.bag_action import BagAction
from feature_gs_ros.ros.services.edits import Edits
from feature_gs_ros.ros.services.exclusive_action import ExclusiveAction
from feature_gs_ros.ros.services.field import FieldServices
from feature_gs_ros.ros.services.planning_scene import CollisionScene
from feature_gs_ros.ros.services.queries import Queries
from feature_gs_ros.ros.services.render import RenderService

MakeServices = Callable[[Any, Callable[[], Session]], Any]  # of the node and the session; what it makes is closed


class FeatureMap(RefusingLifecycleNode):
    """Declares in `__init__`, reads and checks in configure, loads and subscribes in activate, and back.

    Services exist from configuration on; while the node isn't active they answer *unavailable*.
    """

    def __init__(self, services: Sequence[MakeServices] = (), **options: Any) -> None:
        """
        Args:
            services: of other packages, made beside the node's own; see docs/extending.md.
            options: of rclpy's node.
        """
        super().__init__("feature_map", **options)
        self._further = tuple(services)
        declare(self, FEATURE_MAP)
        for camera in dict.fromkeys(value(self, "cameras")):  # one that is named twice is refused on configuration
            declare(self, camera_parameters(camera))
        self._settings: Settings | None = None
        self._session: Session | None = None
        self._topics: Publishers | None = None
        self._services_open: list[Any] = []
        self._actions: list[ExclusiveAction] = []  # of them, or by themselves
        self._timer: Any = None
        self._bond: Bond | None = None
        self._ending = threading.Lock()  # Ctrl-C during a deactivation waits for it, and doesn't save beside it

    def on_configure(self, state: Any) -> Any:
        """Parameters, publishers and services."""
        return transition(self, self._configure, super().on_configure, state, undo=self._clean_up)

    def on_activate(self, state: Any) -> Any:
        """The map, the extractor, the field, subscriptions and the worker."""
        return transition(self, self._activate, super().on_activate, state, undo=self._leave)

    def on_deactivate(self, state: Any) -> Any:
        """Save the field if asked to, and let go of all that was loaded."""
        return transition(self, self._deactivate, super().on_deactivate, state, undo=self._go_on)

    def on_cleanup(self, state: Any) -> Any:
        """Services and publishers go."""
        return transition(self, self._clean_up, super().on_cleanup, state)

    def on_shutdown(self, state: Any) -> Any:
        """All of it, from any state."""
        return transition(self, self.close, super().on_shutdown, state)

    def close(self) -> None:
        """Undo whatever was done; saves if asked to. What can't be saved is lost, and reported."""
        try:
            self._deactivate()
        except Exception as error:  # nothing is left to be tried again: the rest must be undone all the same
            self.get_logger().error(f"the learned field is lost: {explain(error, self.get_logger())}")
            self._leave()
        self._clean_up()

    def _configure(self) -> None:
        self._settings = Settings(self)
        if value(self, "warmup"):
            self.get_logger().info(f"kernels are ready after {warm_up(self._settings.backend):.1f} s")
        self._topics = Publishers(self, CollisionScene(self, self._active_session))
        affordances = Affordances(self, self._topics, self._active_session)
        edits = Edits(self, self._topics, self._active_session)
        fields = FieldServices(self, self._topics, self._active_session)
        recordings, aligning = BagAction(self, self._active_session), AlignAction(self, self._active_session)
        self._actions = [affordances.action, edits.action, fields.action, recordings, aligning]
        self._services_open = [
            Queries(self, self._topics, self._active_session),
            affordances,
            edits,
            RenderService(self, self._active_session),
            fields,
            recordings,
            aligning,
            *(make(self, self._active_session) for make in self._further),
        ]

    def _activate(self) -> None:
        assert self._settings is not None
        assert self._topics is not None
        self._session = Session(self, self._settings)
        period = 1.0 / float(value(self, "status_rate"))
        # On the steady clock: under use_sim_time a report is wanted most when no clock comes.
        clock, group = Clock(clock_type=ClockType.STEADY_TIME), MutuallyExclusiveCallbackGroup()
        self._timer = self.create_timer(period, self._report, callback_group=group, clock=clock)
        live_map = self._session.field.map
        if value(self, "publish_map_cloud"):
            self._topics.send_map(self._session.field, self._settings.map_frame)
        extractor = live_map.extractor.identity.name
        self.get_logger().info(
            f"map of {len(live_map.gaussians)} Gaussians, extractor '{extractor}', "
            f"{self._session.field.views} views loaded"
        )
        for action in self._actions:
            action.begin()
        self._bond = Bond(self)

    def _deactivate(self) -> None:
        with self._ending:
            session = self._session
            if session is None:
                return
            for action in self._actions:
                action.refuse()
            for action in self._actions:
                action.interrupt()
            session.worker.stop()
            views = session.field.views
            if value(self, "save_on_deactivate"):
                self._save(session)
            elif views:
                self.get_logger().warning(f"{views} views are discarded; see save_on_deactivate and ~/save")
            self._leave()

    def _go_on(self) -> None:
        """After a save that failed: the node stays active, and may be deactivated again."""
        with self._ending:
            if self._session is not None:
                self._session.worker.start()
                for action in self._actions:
                    action.begin()

    def _save(self, session: Session) -> None:
        views, path = session.field.views, session.settings.field_path()
        if views or not path.exists():
            self.get_logger().info(f"saved {views} views to '{session.save()}'")
            return
        edits = len(session.field.edits.edits)
        lost = f", {edits} edits are forgotten" if edits else ""
        self.get_logger().warning(f"no views to save: '{path}' stays as it is{lost}")

    def _leave(self) -> None:
        """Let go of what activation loaded."""
        if self._bond is not None:
            self._bond.close()
            self._bond = None
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        session, self._session = self._session, None
        if session is not None:
            session.close()
        if self._topics is not None:
            self._topics.forget_answer()

    def _clean_up(self) -> None:
        while self._services_open:
            self._services_open.pop().close()
        if self._topics is not None:
            self._topics.close()
        self._topics = self._settings = None
        self._actions = []

    def _active_session(self) -> Session:
        """What a callback is about, whose work on a card goes to the stream of queries from then on.

        Raises:
            UnavailableError: the node isn't active.
        """
        session = self._session
        if session is None:
            raise UnavailableError("feature_map is not active; activate it first")
        stay_on("queries", session.field.backend.device)
        return session

    def _report(self) -> None:
        session, publishers = self._session, self._topics
        if session is not None and publishers is not None:
            status = status_message(session, self.get_clock().now().to_msg())
            name, pose_check = self.get_fully_qualified_name(), session.worker.pose_check
            message = diagnostics_message(status, name, session.health, pose_check)
            publishers.send_status(status, message)


def main() -> None:
    """The program feature_map."""
    run(FeatureMap)
