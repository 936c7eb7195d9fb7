"""How many lanes a vector has."""

SIZE = 16
