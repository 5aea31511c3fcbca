"""Repair: statistics, biases and weights of a variant, estimated anew from a few samples."""
