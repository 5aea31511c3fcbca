"""Variants: sliced from shared weights for the search, copied out for delivery."""
