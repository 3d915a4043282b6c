"""Settings of a run: schema, parsing, command line, presets."""
