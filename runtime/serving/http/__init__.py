"""HTTP below the dialects: how requests come in and under which limits."""
