"""Bundles <-> other people's files. Models never import this package."""
