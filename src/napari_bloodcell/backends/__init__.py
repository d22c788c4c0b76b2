"""The only code that imports torch: SAM, the CNN, their weights and devices."""
