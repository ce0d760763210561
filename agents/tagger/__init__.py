"""Taggers: who writes the thoughts of demonstrations. The hook is `base.Tagger`; one file per key."""
