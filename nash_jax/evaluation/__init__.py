"""Generation for the rows of a split, and metrics of the outputs."""
