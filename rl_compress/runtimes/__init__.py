"""What runs a delivered file: loads it, computes with it, and is timed."""
