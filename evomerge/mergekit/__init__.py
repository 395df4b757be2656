"""mergekit's files: merges read and written, searches of mergekit-evolve turned into configs.

Knows mergekit's formats as documented. Does not need mergekit itself.

Results agree with mergekit's within the rounding of its dtype, with these deliberate differences:

- A merge is computed in higher precision and rounded once, to `out_dtype` or else `dtype`; mergekit
  rounds inputs and intermediate results to `dtype`.
- DARE and DELLA draw other random entries, which depend on the recipe's seed and the models' names alone.
- Where entries are kept by magnitude, all that tie at the border are kept; Breadcrumbs and Arcee Fusion
  may differ in an entry at the border, which is rounded differently.
- Densities and SLERP's t outside 0 to 1 are refused; mergekit clips the former and extrapolates with the latter.
- Parameters that mergekit passes over in silence are refused by name.
- Local models are looked for in the current folder, as in mergekit, and then in that of the file.
"""
