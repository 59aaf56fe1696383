"""`tvr doctor`."""
from __future__ import annotations
OVERVIEW = """\
  doctor    what a bug report should say          tvr doctor
"""
