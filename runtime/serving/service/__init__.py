"""The embedding service behind all dialects: calls in, vectors or refusals out."""
