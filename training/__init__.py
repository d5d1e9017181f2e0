"""Training: the paper's two stages, and new heads on stored features."""
