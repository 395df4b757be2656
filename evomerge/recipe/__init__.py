"""The complete merge as data."""
