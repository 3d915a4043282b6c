"""Generation over a split, and the metrics of what came out."""
