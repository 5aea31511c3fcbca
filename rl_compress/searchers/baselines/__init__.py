"""Baselines: searches without a learned agent, under the same evaluator, budget and count."""
