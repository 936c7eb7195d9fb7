"""The ROS 2 face: nodes, parameters, topics, services. Nothing outside this folder imports rclpy."""
