"""Programs: python -m trainers.run, evaluate, generate, export. Nothing imports them."""
