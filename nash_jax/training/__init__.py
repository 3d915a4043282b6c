"""One loop, one jitted step per phase, plain pytrees for state."""
