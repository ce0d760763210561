"""Controller plug-ins: who steers an update by what was measured; one file per key."""
