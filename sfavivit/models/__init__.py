"""The PyTorch model and its checkpoints: the only modules, besides the PyTorch engine, that import torch."""
