"""Data: records of files and hubs, rows of them, the prompt format, tokens and batches.

May import: model, memory, settings, catalog and below.
"""
