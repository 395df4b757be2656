"""What several tests need: small models, workers, searches, references."""
