"""Speed and memory, each as a ratio against a named alternative in the same run: ``python -m benchmarks``."""
