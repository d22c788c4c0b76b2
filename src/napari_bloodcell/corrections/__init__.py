"""What people say about cells: corrections, their journal, edits of masks."""
