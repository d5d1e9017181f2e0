"""Helpers without imports from the rest of the package."""
