"""Commands that bring results to other programs, and back what was changed there."""
