"""mergekit's files: merges read and written, searches of mergekit-evolve turned into configs.

Knows mergekit's formats as documented. Does not need mergekit itself.

Results agree with mergekit's within the rounding of its dtype, with these deliberate differences:

- A merge is computed in higher precision and rounded once, to `out_dtype` or else `dtype`; mergekit
  rounds inputs and intermediate results to `dtype`.
- DARE and DELLA draw other random entries, which depend on the recipe's seed and the models' names alone.
- Where entries are kept by magnitude, all that tie at the border are kept; Breadcrumbs and Arcee Fusion
  may differ in an entry at the border, which is rounded differently.
- Densities and SLERP's t outside 0 to 1 are refused; mergekit clips the former and extrapolates with the latter.
- `tokenizer_source`: base tokens keep their ids, and the others follow in the file's order; mergekit numbers the
  experts' tokens in an order that changes from run to run. Regular tokens of experts join the tokenizer's own model
  with their merges; mergekit adds them as literal texts, which are then cut out of any word. Rows without a token stay
  as the base pads them; mergekit cuts them off. Without `base_model`, the first model is the base, and a model that
  lacks a token of its has that row; mergekit takes an arbitrary tokenizer and the mean of all rows. `tokenizer.tokens`
  and `pad_to_multiple_of` are refused, and so is another model's tokenizer.
- Parameters that mergekit passes over in silence are refused by name.
- A slice's sources may be other models than another slice's with passthrough and methods that weigh models, except
  nuslerp and multislerp; a model is named once a slice, and the base, if the method has one, in each.
- What comes after the layers is merged from all sources of the last slice; mergekit takes only as many of them as
  the first slice has. Layers of different kinds (with and without a sliding window) aren't merged, and the config of
  a stack follows its layers; mergekit leaves lists with an entry per layer as they were.
- Local models are looked for in the current folder, as in mergekit, and then in that of the file.
"""
