"""Items in splits, requests out, answers to scores."""
