"""Tests of sfavivit/reports."""
