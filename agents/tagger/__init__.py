"""Taggers: they write the thoughts of demonstrations. The hook is `base.Tagger`, one file a key."""
