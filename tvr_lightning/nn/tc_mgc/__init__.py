"""Layers of TC-MGC."""
