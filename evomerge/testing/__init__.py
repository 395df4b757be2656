"""Small real models and conformance suites, for our own tests and for those of plugins."""
