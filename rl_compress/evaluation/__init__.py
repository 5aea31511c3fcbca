"""Evaluation: policy in, stored record out, every variant measured once."""
