"""Predict: memory and time of loading, chatting and training, computed from a model's config without its weights.

Begin with phases.py. May import: train, data, model, memory and below.
"""
