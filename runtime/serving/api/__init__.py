"""The HTTP dialects: what the clients of other embedding servers send, and what they read."""
