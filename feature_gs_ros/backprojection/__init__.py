"""Features of posed images onto a map (Joseph et al., 3.1 and 3.2): from a stream to a field."""
