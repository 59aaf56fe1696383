"""Layers of GHAN."""
