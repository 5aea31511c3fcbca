"""The agent: its environment, what it observes, and its training."""
