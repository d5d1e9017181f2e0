"""Tests of sfavivit/engines."""
