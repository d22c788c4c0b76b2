"""What people do with the cells of a layer, in one history, and the journal of what they said."""
