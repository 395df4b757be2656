"""Scoring: benchmarks built once from lm-eval tasks, answered by a live model, kept per item."""
