"""The source: where the groups of a step come from."""
