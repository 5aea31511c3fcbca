"""Search: the environment, the prior, the baselines, and RLlib on Ray."""
