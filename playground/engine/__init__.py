"""Engine: the one process that owns the model and runs jobs, and its client on the page's side.

May import: eval, chat, predict, train, data, model, memory, runs and below; the page imports client alone.
"""
