"""``python -m feature_gs_ros.cli``: the same as ``feature-gs``."""

from feature_gs_ros.cli import main

if __name__ == "__main__":
    main()
