"""TFDS builder over the documentation of the Python that runs it: the embedded default, no network."""
