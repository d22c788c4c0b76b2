"""The Edit cells dock."""
