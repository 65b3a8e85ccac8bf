"""What a server needs around a SavedModel, and the proof that it works without us; `zoo/export.py` puts it together."""
