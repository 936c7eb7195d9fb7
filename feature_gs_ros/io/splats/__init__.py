"""Splat maps as files: one format per module, chosen by registry.py."""
