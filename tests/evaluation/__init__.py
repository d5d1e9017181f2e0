"""Tests of sfavivit/evaluation."""
