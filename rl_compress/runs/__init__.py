"""Runs: records, their store, the Pareto front, the run directory."""
