"""Models written for other engines, and for the hub."""
