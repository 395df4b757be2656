"""A live model answers requests."""
