"""A model repository for Triton Inference Server, made from a bundle."""
