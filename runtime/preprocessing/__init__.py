"""Items to sequences: tokens, patches, positions."""
