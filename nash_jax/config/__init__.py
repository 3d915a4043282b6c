"""Settings of a run: what there is (schema), what a value may be (fields), reading them (parsing, command_line)."""
