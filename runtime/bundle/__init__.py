"""The bundle on disk as the runtime opens it: manifest, numbers of the model, files."""
