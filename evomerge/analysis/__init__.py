"""What the weights of a base and its experts say before a search: how far, how alike, how much in each other's way.

Each statistic is a pure function of arrays in a file named after its subject; `analyse` streams models through them,
one tensor of every model at a time.
"""
