"""The options of a recording, which every command that reads a stream takes by their own names: --map-frame, …."""

from __future__ import annotations

from typing import Annotated

import tyro

from feature_gs_ros.io.streams.options import BagOptions

RecordingOptions = Annotated[BagOptions, tyro.conf.arg(name=""), tyro.conf.UseAppendAction]
NO_OPTIONS = BagOptions()
