"""What the docks do with slides larger than memory."""
