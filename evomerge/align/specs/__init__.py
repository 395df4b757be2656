"""Specs of architectures, one file each, found by model type."""
