"""What runs inside the environment of a vLLM server; nothing of turnrl imports it."""
