"""Estimators and statistics: arrays of item scores in, numbers out."""
