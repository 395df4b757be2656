"""Means on a sphere."""
