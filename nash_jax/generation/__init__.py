"""Jitted text generation: greedy search, sampling and beam search."""
