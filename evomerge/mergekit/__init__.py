"""mergekit's files: merges read and written, searches of mergekit-evolve turned into configs.

Knows mergekit's documented formats. Does not need mergekit itself.
"""
