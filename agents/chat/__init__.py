"""Chat: from messages to the exact tokens that a model reads, and back. The noun is `Chat`."""

from .chat import Chat as Chat
