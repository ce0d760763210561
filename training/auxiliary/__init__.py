"""Auxiliary plug-ins: further batches that an update learns from; one file per key."""
