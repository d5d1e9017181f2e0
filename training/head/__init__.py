"""Training of a new head on stored features."""
