"""Tasks: what a model is trained and judged on. Each is a loss, metrics and serving signatures."""
