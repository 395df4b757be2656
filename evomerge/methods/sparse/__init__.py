"""Methods that keep a part of each task vector."""
