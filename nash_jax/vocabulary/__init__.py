"""Trimming: a model and its tokenizer keep the tokens that texts need, and the others are cut out of both."""
