"""The built-in demo: small models trained from scratch, offline, for a search that is real."""
