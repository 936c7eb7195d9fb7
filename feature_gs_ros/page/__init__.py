"""A page in the browser: see a map, ask it, click it, edit it. No ROS; needs the extra ``viewer`` (viser)."""
