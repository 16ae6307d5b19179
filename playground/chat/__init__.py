"""Chat: base and tuned answers, side by side."""
