"""lm-eval's tasks as a benchmark. The only importer of lm_eval."""
