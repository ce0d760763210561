"""Contexts: what the player sees at each turn. The hook is `base.Context`; one file per key."""
