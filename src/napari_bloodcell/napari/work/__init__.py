"""Long work of the docks, in threads."""
