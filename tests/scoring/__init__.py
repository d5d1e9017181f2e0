"""Tests of sfavivit/scoring."""
