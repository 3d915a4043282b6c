"""Resumable generation for the rows of a file."""
