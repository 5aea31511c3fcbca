"""Costs: counted exactly from widths, and latency as measured."""
