"""The pool: many worlds at once, in threads or in processes."""
