"""Rows from the hub, files or packages; tokenized once, batched by length."""
