"""Memory: the exact ledger of what is held, measured memory, and limits on it.

May import: settings, catalog, runs, errors, i18n, compat.
"""
