"""The services of the map's node."""
