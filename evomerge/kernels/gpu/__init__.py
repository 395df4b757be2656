"""Kernels for GPUs, made from formulas."""
