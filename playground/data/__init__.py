"""Data: records of files and hub data sets, rows, prompt templates, tokens and batches.

May import: model, memory, settings, catalog and below.
"""
