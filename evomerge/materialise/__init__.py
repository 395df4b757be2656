"""From a recipe to merged tensors."""
