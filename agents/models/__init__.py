"""Models: all that knows what a decoder layer is."""
