"""mergekit's files: merges read and written, searches of mergekit-evolve turned into configs.

Knows mergekit's formats as documented. Does not need mergekit itself.

Results agree with mergekit's within the rounding of its dtype. Every deliberate difference, and every key that is
refused, is listed in docs/mergekit.md.
"""
