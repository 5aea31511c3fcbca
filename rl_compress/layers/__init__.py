"""Layers: which of them share channels and must be decided together."""
