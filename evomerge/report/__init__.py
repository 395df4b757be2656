"""What a run has found, for people."""
