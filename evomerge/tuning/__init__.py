"""Fine-tuning: experts from a base and data, and rounds of tuning and merging."""
