"""The Count dock."""
