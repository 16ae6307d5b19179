"""Bit-width lab: what each number format makes of a model's weights, and what that costs in quality.

May import model, errors and below. `formats` imports no torch: the page lists the formats too.
"""
