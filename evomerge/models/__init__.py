"""What is on disk, and the ways to see it as one family."""
