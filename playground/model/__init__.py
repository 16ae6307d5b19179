"""Models: where they come from, how they are loaded, what is added to them."""
