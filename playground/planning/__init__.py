"""Planning: questions about memory and rows, answered by a helper process while the engine is busy.

May import: eval, predict, train, data, model, memory, runs and below; the page imports client alone.
"""
