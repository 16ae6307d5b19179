"""Memory: exact bytes of tensors by part, measured memory, its peaks, and limits on it.

May import: settings, catalog, runs, errors, i18n, compat.
"""
