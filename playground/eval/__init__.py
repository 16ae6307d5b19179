"""Evaluate: answers to held-out rows, and how they differ between base and tuned, with confidence intervals.

May import: chat, data, lab, model, memory and below.
"""
