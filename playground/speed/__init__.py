"""Speed: how fast a device computes, copies and launches; measured here, known from a data sheet, or assumed.

May import: model, memory, catalog, settings, errors, i18n, compat. What work there is to do: train and predict know.
"""
