"""Chat: from messages to the exact tokens that a model reads, and back."""
