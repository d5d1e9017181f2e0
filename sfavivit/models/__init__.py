"""The PyTorch models and their checkpoints."""
