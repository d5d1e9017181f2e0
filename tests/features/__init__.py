"""Tests of sfavivit/features."""
