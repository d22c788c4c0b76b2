"""The words of the program: settings, the table of cells, protocols, errors, progress."""
