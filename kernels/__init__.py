"""Array arithmetic that knows nothing of the model: numpy in, numpy out."""
