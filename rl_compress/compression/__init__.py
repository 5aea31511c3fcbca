"""Variants: sliced from shared weights for the search, cut physically for delivery."""
