"""Scripts that make the weights which the project ships; not part of the installed package."""
