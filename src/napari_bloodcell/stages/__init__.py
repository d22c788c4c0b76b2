"""The stages of the paper's method, from tiles to counts."""
