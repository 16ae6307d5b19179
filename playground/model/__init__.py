"""Model: fetch, check, load, quantize, adapt and save models and tokenizers.

May import: memory, settings, catalog, background and below.
"""
