"""Training: the loop and its loss."""
