"""Making: files that worlds make once and keep."""
