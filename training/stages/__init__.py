"""Stages: the parts of a run, one after the other. The hook is `base.Stage.run`."""
