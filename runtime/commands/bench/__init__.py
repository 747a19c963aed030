"""`trine bench`: how fast a bundle runs here, and where its time goes."""
