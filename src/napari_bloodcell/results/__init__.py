"""Results on disk: tables, label images, recipes, pictures."""
