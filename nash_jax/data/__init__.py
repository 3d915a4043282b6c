"""Rows from hub, files or packages; tokenised once, batched by length."""
