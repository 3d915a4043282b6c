"""Gates, sparsity constraint, layer selection, compaction and distillation. Knows no model family."""
