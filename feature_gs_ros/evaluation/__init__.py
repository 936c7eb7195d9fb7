"""Scores of segmentations and images, and the evaluation protocols of the papers."""
