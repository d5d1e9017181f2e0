"""Training: the paper's two stages, and the demo model."""
