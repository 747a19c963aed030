"""`trine bench`: how fast a bundle runs here, where its time goes, and how far the machine goes."""
