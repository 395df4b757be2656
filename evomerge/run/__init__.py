"""The run directory: everything about one search, on disk."""
