"""The values that everything else works with: cameras, transforms, maps, feature grids, codecs, errors."""
