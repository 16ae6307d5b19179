"""Jobs: the queue of jobs that outlives the program, sweeps over settings, and what works jobs off one by one.

May import: catalog, runs, settings, job, errors, i18n. Imports no torch; the engine is handed in.
"""
