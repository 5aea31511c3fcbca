"""Quantizers: values to codes of 1 to 8 bits, and back."""
