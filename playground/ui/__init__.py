"""The page. Nothing in here imports torch: whatever needs it is asked of the engine."""
