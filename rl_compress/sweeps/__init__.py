"""Ray Tune: many runs of one job with some of its keys varied."""
