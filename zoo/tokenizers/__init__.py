"""Strings <-> token ids: natively for preparation, with TensorFlow ops for the SavedModel."""
