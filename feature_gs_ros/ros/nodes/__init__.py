"""The nodes: the map, the extractor, the player of recordings."""
