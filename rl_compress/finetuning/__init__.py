"""Repairing compressed networks: recalibration, reconstruction, and fine-tuning."""
