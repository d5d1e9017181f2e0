"""Tests of sfavivit/cli."""
