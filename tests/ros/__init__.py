"""Tests on a real ROS 2, in a package so that their conftest and helpers have names of their own."""
