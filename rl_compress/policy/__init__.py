"""Policies: decisions, the space they are taken from, and the budget they must meet."""
