"""tvr_lightning: text-video retrieval methods, trained and compared honestly."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvr_lightning.run.load import Experiment as Experiment
    from tvr_lightning.run.load import load_experiment as load_experiment
    from tvr_lightning.run.load import load_run as load_run
    from tvr_lightning.search.index import load_index as load_index

__version__ = "0.2.0"
__all__ = ["__version__", "load_experiment", "load_index", "load_run"]

_HOME = {
    "load_experiment": "run.load",
    "load_run": "run.load",
    "Experiment": "run.load",
    "load_index": "search.index",
}


def __getattr__(name: str) -> Any:
    """Import the heavy parts on first use only: `tvr --help` must not wait for torch."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
