"""RLlib on Ray: everything that imports Ray for the search."""
