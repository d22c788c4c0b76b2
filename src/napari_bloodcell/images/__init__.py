"""Images of any size: files, arrays and slides."""
