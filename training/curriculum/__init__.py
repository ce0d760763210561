"""Curricula: which tasks are played next. The hook is `base.Curriculum`; one file per key."""
