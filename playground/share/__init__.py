"""Share: a run as a script, a notebook, command lines and a settings file, and its result as a card.

May import: catalog, runs, settings, errors, i18n. Imports no torch.
"""
