"""How images, poses and calibrations come in."""
