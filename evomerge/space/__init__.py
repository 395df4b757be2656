"""From a genome to a recipe."""
