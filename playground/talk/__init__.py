"""The talk: its steps, from a file that a speaker edits.

May import catalog, errors and below; neither torch nor Gradio.
"""
