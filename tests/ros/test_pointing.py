"""Points of a request, before any node: what can't be meant is said as it was given."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import Point

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.ros.services.pointing import locate
from feature_gs_ros.srv import QueryPoints
from ros.scene import SPLAT_FROM_MAP


@pytest.mark.parametrize("place", [(np.inf, 0.0, 1.0), (0.0, -np.inf, 1.0), (0.0, 1.0, np.nan)])
@pytest.mark.parametrize("frame", ["map", "camera"])
def test_a_point_that_is_not_finite_is_refused_as_it_was_given(place, frame):
    poses = SimpleNamespace(lookup=lambda *_: SPLAT_FROM_MAP.camera_from_splat(np.eye(4)))
    session = SimpleNamespace(settings=SimpleNamespace(map_frame="map", splat_from_map=SPLAT_FROM_MAP), poses=poses)
    request = QueryPoints.Request()
    request.header.frame_id = frame
    x, y, z = place
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PromptError) as caught:
            locate(session, None, request, [Point(x=x, y=y, z=z)])
    assert caught.value.code == "prompt.not-finite"
    assert str(place) in str(caught.value)
