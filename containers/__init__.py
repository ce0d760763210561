"""Sandboxes: where may untrusted code run? Imports nothing of ours."""
