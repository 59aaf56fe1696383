"""What the repository keeps of a run, so that a page of figures can be written again where nothing was trained.

A run's folder holds weights, and lies on one machine. What comparisons read of it is a fiftieth of that: the settings,
the metrics, the validation curve, and the ranks and values of each query, by which runs are tested against each other.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.layers import flat
from tvr_lightning.config.options import WHERE_AND_HOW_OFTEN
from tvr_lightning.data.stores.files import atomic_folder, write_json
from tvr_lightning.errors import TVRError
from tvr_lightning.names import CONFIG, METRICS, PROBE, RANKS, VALUES
from tvr_lightning.run.curves import CURVES
from tvr_lightning.run.reading import read_json, read_settings
from tvr_lightning.run.results import RANK_COLUMNS

MAP = "/mAP"  # ends the names of the figures of codes that comparisons test


def keep(folder: Path, kept: Path) -> None:
    """Copies of a finished run what comparisons read.

    Raises:
        TVRError: the run lacks a file, or the copy cannot be written.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    check_files(folder)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(kept) as new:
        for name in filter(lambda name: (folder / name).is_file(), (CONFIG, CURVES)):
            shutil.copyfile(folder / name, new / name)
        content = read_json(folder / METRICS, "delete the folder to have the run made again")
        write_json(new / METRICS, {name: value for name, value in content.items() if name != "checkpoint"})
        ranks = pq.read_table(folder / RANKS, columns=list(RANK_COLUMNS))
        values = pq.read_table(folder / VALUES)
        metric = values.column("metric")
        values = values.filter(pc.or_(pc.starts_with(metric, PROBE), pc.ends_with(metric, MAP)))
        for table, name in ((ranks, RANKS), (values, VALUES)):
            pq.write_table(table, new / name, compression="zstd", compression_level=19)


def check_files(folder: Path) -> None:
    """Looks for what comparisons read; a run that trained nothing has no curves.

    Raises:
        TVRError: a file is missing, without which a page would show less and not say so.
    """
    if missing := [name for name in (CONFIG, METRICS, RANKS, VALUES) if not (folder / name).is_file()]:
        raise TVRError(f"{folder} has no {', '.join(missing)}; delete the folder to have the run made again")


def check_settings(words: Sequence[str], kept: Path) -> None:
    """Compares what a run was made with to what `tvr fit` would make it with now.

    Raises:
        TVRError: they differ, so that its figures would stand for settings that it did not have.
    """
    now, then = _settings(read_arguments(words)[0]), _settings(read_settings(kept / CONFIG))
    for name, value in now.items():
        if name not in then or then[name] != value:
            was = then.get(name, "not there")
            raise TVRError(
                f"{kept} was made with other settings: {name} was {was!r} and is {value!r} now; delete the folder to "
                "have the run made again"
            )


def _settings(config: Any) -> dict[str, Any]:
    return flat({name: value for name, value in config.items() if name not in WHERE_AND_HOW_OFTEN})
