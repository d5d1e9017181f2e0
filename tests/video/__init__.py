"""Tests of sfavivit/video."""
