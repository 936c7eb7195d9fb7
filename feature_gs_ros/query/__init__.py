"""Questions about a field: words, clicks, examples; answers in 3D and in views, objects (Joseph et al., 3.2)."""
