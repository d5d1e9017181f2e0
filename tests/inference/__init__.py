"""Tests of sfavivit/inference."""
