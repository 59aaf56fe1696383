"""Checking, compressing and describing datasets."""
