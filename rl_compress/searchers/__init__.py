"""Searchers: sensitivity curves, the prior, the reward predictor, and baselines."""
