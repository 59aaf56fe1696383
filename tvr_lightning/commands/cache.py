"""`tvr doctor`."""
from __future__ import annotations
OVERVIEW = """\
  cache     what is kept
"""
