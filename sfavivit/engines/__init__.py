"""Engines: what runs the spatial and temporal graphs."""
