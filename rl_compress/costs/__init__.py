"""Costs: counted exactly from levels, and latency as measured."""
