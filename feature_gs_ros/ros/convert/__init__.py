"""Answers and states as messages."""
