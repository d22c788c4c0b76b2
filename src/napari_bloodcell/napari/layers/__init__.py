"""The program's layers: cells, types, and how they are drawn."""
