"""Robustness: what attacks on inputs and on weights do to a model."""
