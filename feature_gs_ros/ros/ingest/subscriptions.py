"""Image subscriptions that also report what the middleware lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


def subscribe_counting(
    node: Any,
    message_type: type,
    topic: str,
    callback: Callable[[Any], None],
    quality: Any,
    group: Any,
    on_lost: Callable[[int], None],
) -> Any:
    """A subscription; ``on_lost`` is told how many messages were lost, where the middleware knows."""
    events = SubscriptionEventCallbacks(message_lost=lambda info: on_lost(int(info.total_count_change)))
    try:
        return node.create_subscription(
            message_type, topic, callback, quality, callback_group=group, event_callbacks=events
        )
    except UnsupportedEventTypeError:
        return node.create_subscription(message_type, topic, callback, quality, callback_group=group)
