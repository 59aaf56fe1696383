"""tvr_lightning: text-video retrieval methods, trained and compared honestly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvr_lightning.run.load import Experiment as Experiment
    from tvr_lightning.run.load import load_experiment as load_experiment
    from tvr_lightning.run.load import load_run as load_run

__version__ = "0.1.0"
__all__ = ["__version__", "load_experiment", "load_run"]


def __getattr__(name: str) -> Any:
    """Import the heavy parts on first use only: `tvr --help` must not wait for torch."""
    if name in {"load_experiment", "load_run", "Experiment"}:
        from tvr_lightning.run import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
