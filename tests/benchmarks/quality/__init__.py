"""Parts of `search_quality.py`: how good searches are, measured side by side."""
