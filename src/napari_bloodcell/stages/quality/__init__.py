"""Whether a place of a smear is worth counting: focus, crowding, stain and dirt, tile by tile."""
