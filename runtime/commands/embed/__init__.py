"""`trine embed`: items of files to vectors in a file."""
