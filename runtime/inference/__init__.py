"""Sequences to vectors: batches, vision tower, decoder, pooling."""
