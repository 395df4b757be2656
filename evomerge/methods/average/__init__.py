"""Weighted means."""
