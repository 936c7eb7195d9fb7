"""ROS messages as plain values, without ROS: what is in a recording, and what the nodes send."""
