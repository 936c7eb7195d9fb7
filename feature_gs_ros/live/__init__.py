"""A field that grows while it is asked: what the ROS node owns, without ROS."""
