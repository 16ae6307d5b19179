"""The page: one file a tab. Imports no torch; what needs it is asked of the engine or the planner.

May import: planning.client, engine.client, chat.openai_client, data, catalog, runs, settings and below.
"""
