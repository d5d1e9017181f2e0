"""Tests of sfavivit/utils."""
