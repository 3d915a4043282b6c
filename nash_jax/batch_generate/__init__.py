"""Generation for the rows of a file, resumable."""
