"""Results in the files of other programs, and what came back from them."""
