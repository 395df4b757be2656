"""What weights say before a search, and what lies between models.

Each statistic is a pure function of arrays in a file named after its subject. `analyse` streams a base and its experts
through them, one tensor of every model at a time; `connect` measures loss and accuracy on mixtures of models.
"""
