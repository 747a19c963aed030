"""`trine push`: a bundle into a repository of the Hugging Face Hub."""
