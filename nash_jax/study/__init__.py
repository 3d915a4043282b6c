"""Grids of runs: cells, records, tables, figures and the page."""
