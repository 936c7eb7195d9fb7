"""From one frame to another: alignments from poses, points, hand–eye, markers and images; poses refined."""
