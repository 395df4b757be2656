"""One formula over whole tensors, to the same bytes on every engine."""
