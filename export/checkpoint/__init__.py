"""A checkpoint on disk: found, read, its numbers checked."""
