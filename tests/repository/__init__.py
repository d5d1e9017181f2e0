"""Tests of sfavivit/repository."""
