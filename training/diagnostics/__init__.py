"""Diagnostic plug-ins: who measures an update and changes nothing; one file per key."""
