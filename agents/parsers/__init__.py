"""Parsers: from what the model wrote to an action. The hook is `base.Parser`; one file per key."""
