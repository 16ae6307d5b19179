"""Evaluate: answers to held-out rows, and what changed between base and tuned, with intervals.

May import: chat, data, model, memory and below.
"""
