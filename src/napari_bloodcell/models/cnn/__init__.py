"""The classifier: a small convolutional network."""
