"""Honest latency: same process, same inputs, systems in turn, compilation left out."""
