"""Layers of LEAN."""
