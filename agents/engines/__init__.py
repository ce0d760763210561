"""Engines: token ids in, token ids and log-probabilities out. The hook is `base.Engine`."""
