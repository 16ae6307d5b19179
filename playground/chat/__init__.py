"""Chat: answers of base and tuned model from one batch, and answers of an OpenAI-compatible service.

May import: model, memory, settings and below.
"""
