"""Bridges: doors to and from other ecosystems of environments."""
