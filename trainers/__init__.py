"""Programs: python -m trainers.run, evaluate, generate, export. Nothing outside imports them."""
