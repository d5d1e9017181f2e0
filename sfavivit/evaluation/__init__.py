"""Accuracy and confusion of scored videos."""
