"""Stages: the parts of a run."""
