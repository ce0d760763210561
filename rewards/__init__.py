"""Turn rewards: what was each turn worth? Imports agents and envs."""
