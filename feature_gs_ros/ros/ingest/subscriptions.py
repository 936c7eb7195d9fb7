"""Subscriptions that qos_overrides may change, of images also with what the middleware lost."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from rclpy.qos import QoSPolicyKind
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

# rclpy's default leaves out the durability: who subscribes to a latched camera_info asks for it.
OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)


def subscribe_counting(
    node: Any,
    message_type: type,
    topic: str,
    callback: Callable[[Any], None],
    quality: Any,
    group: Any,
    on_lost: Callable[[int], None],
) -> Any:
    """A subscription like `subscribe`'s; ``on_lost`` gets the number of messages lost, where the middleware knows."""
    events = SubscriptionEventCallbacks(message_lost=lambda info: on_lost(int(info.total_count_change)))
    try:
        return subscribe(node, message_type, topic, callback, quality, group, event_callbacks=events)
    except UnsupportedEventTypeError:
        return subscribe(node, message_type, topic, callback, quality, group)


def subscribe(
    node: Any,
    message_type: type,
    topic: str,
    callback: Callable[[Any], None],
    quality: Any,
    group: Any,
    **options: Any,
) -> Any:
    """A subscription with the `OVERRIDABLE` as ``qos_overrides.<topic>.subscription.*`` say, if given."""
    return node.create_subscription(
        message_type,
        topic,
        callback,
        copy(quality),  # which the overrides change
        callback_group=group,
        qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
        **options,
    )
