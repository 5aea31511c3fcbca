"""Ways to make the sites of a model smaller, one a file."""
