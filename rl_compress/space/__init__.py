"""The search space: decisions, policies, and the budget that they must meet."""
