"""One search, from config to result."""
