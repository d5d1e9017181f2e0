"""Tests of the models and their checkpoints."""
