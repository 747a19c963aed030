"""What runs a bundle fastest on one machine: settings in the bundle, and the search for them."""
