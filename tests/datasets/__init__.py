"""Tests of sfavivit/datasets."""
