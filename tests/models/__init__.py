"""Tests of sfavivit/models."""
