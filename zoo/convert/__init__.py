"""Bundles <-> third-party files. Models never import this package."""
