"""The page's panels, one per file: each adds its controls to a browser and acts on that browser's `Session`."""
