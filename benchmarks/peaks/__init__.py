"""What the machine can do at best: the roofs that results are held against."""
