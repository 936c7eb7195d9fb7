"""Streams of posed images: one kind per module, chosen by registry.py."""
