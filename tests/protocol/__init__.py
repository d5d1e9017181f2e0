"""Tests of sfavivit/protocol."""
