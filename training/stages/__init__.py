"""Stages: what a run does, one part after the other. The hook is `base.Stage.run`; one file per key."""
