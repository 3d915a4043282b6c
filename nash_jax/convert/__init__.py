"""Conversion from and to checkpoints of other libraries."""
