"""Methods that decompose matrices."""
