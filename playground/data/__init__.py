"""Data: rows from files and hubs, the template that writes them for the model, and batches of tokens."""
