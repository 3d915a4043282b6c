"""A run from data to report: stages, their context and their folder."""
