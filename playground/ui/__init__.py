"""The page: one file a tab. Imports no torch: the engine and the planner run everything that needs it.

May import: planning.client, engine.client, chat.openai_client, data, catalog, runs, settings and below.
"""
