"""Experiment files: composing, checking, listing them."""
