"""Layers of SPTCH."""
