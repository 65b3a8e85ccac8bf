"""Keras layers that families share. They compute with keras.ops and import only Keras and each other."""
