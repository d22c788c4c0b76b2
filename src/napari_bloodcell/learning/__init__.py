"""Training sets, and training of the classifier and the mask generator."""
