"""The official SAM checkpoints: ViT-B, ViT-L and ViT-H."""
