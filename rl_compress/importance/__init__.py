"""Importance: which units of a group matter least."""
