"""The demo model: synthetic videos of twelve motions, and the training of a small model on them."""
