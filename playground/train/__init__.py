"""Train: the fine-tuning loop and everything that makes it use less memory.

May import: data, model, memory and below.
"""
