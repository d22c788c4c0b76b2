"""What people say about cells: corrections, the journal that keeps them, edits of masks."""
