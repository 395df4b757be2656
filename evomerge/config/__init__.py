"""The experiment's YAML, a file for each section."""
