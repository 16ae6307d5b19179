"""Share: a run as a script, a notebook, command lines, a settings file, a result card, and in Trackio.

May import: catalog, runs, settings, errors, i18n, compat_trackio. Imports no torch.
"""
