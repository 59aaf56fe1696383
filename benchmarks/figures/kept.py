"""What the repository keeps of a run, so that a page of figures can be written again where nothing was trained.

A run's folder holds weights, and lies on one machine. What comparisons read of it is a fiftieth of that: the settings,
the metrics, the validation curve, and the ranks and values of each query, by which runs are tested against each other.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.layers import flat
from tvr_lightning.config.options import WHERE_AND_HOW_OFTEN
from tvr_lightning.data.stores.files import atomic_folder, write_json
from tvr_lightning.errors import TVRError
from tvr_lightning.names import CONFIG, METRICS, PROBE, RANKS, VALUES
from tvr_lightning.run.curves import CURVES
from tvr_lightning.run.query_values import read_values
from tvr_lightning.run.reading import read_settings
from tvr_lightning.run.results import RANK_COLUMNS, read_ranks, read_run

OF_ONE_RUN = ("--seed_everything=", "--run_id=")  # begins the words in which seeds of one setting differ
OF_CODES = ("hash/t2v/mAP", "hash/v2t/mAP")  # the figures of codes that comparisons test
_one_at_a_time = Lock()  # Python 3.11 cannot parse sources in two threads


class OtherSettingsError(TVRError):
    """A run was made with other settings than it would be made with now."""


def keep(folder: Path, kept: Path) -> None:
    """Copies of a finished run what comparisons read.

    Raises:
        TVRError: something of the run is missing or damaged, or the copy cannot be written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    check_files(folder)
    if kept.exists():
        raise TVRError(f"{kept} has no {METRICS}; {again(kept)}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(kept) as new:
        for name in filter(lambda name: (folder / name).is_file(), (CONFIG, CURVES)):
            shutil.copyfile(folder / name, new / name)
        content = read_run(folder).content
        write_json(new / METRICS, {name: value for name, value in content.items() if name != "checkpoint"})
        ranks = pq.read_table(folder / RANKS, columns=list(RANK_COLUMNS))
        values = pq.read_table(folder / VALUES)
        metric = values.column("metric")
        values = values.filter(pc.or_(pc.starts_with(metric, PROBE), pc.is_in(metric, pa.array(OF_CODES))))
        for table, name in ((ranks, RANKS), (values, VALUES)):
            pq.write_table(table, new / name, compression="zstd", compression_level=19)


def check_files(folder: Path) -> None:
    """Reads what comparisons read; a run that trained nothing has no curves.

    Raises:
        TVRError: a file is missing or damaged, without which a page would show less and not say so.
    """
    if missing := [name for name in (CONFIG, METRICS, RANKS, VALUES) if not (folder / name).is_file()]:
        raise TVRError(f"{folder} has no {', '.join(missing)}; {again(folder)}")
    try:
        settings, _ = read_settings(folder / CONFIG), read_ranks(folder)
        metrics, values = read_run(folder).content["metrics"], read_values(folder)
    except TVRError as error:
        raise TVRError(f"{error}. Here: {again(folder)}") from None
    if not settings:
        raise TVRError(f"{folder / CONFIG} holds no settings; {again(folder)}")
    for name, figure in metrics.items():
        own = name.removeprefix("test/")
        if own.startswith(PROBE) or own in OF_CODES:
            mean = float(values[own].value.nanmean()) if own in values else math.nan
            if not math.isclose(mean, figure, rel_tol=1e-6, abs_tol=1e-6):
                raise TVRError(f"{folder / VALUES} does not give the {own} of {METRICS}, {figure:g}; {again(folder)}")


def check_settings(words: Sequence[str], folder: Path) -> None:
    """Compares all settings of a run to those that `tvr fit` would make it with now, defaults among them.

    Raises:
        OtherSettingsError: they differ, so that its figures would stand for settings that it did not have.
    """
    own = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith(OF_ONE_RUN))
    with _one_at_a_time:
        now = _resolved(tuple(word for word in words if not word.startswith(OF_ONE_RUN)))
    now = now | {name: yaml.safe_load(value) for name, value in own.items() if name not in WHERE_AND_HOW_OFTEN}
    then = _settings(read_settings(folder / CONFIG))
    nothing = object()
    for name in sorted({*now, *then}, key=str):
        was, is_now = then.get(name, nothing), now.get(name, nothing)
        if repr(was) != repr(is_now):  # 1 batch is not 1.0 of them
            change = f"{'not there' if was is nothing else repr(was)} and is "
            change += "not there any more" if is_now is nothing else f"{is_now!r} now"
            raise OtherSettingsError(f"{folder} was made with other settings: {name} was {change}")


@cache
def _resolved(words: tuple[str, ...]) -> dict[str, Any]:
    from tvr_lightning.run.build import build_cli, resolved_config

    return _settings(resolved_config(build_cli(read_arguments(words)[0])))


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return flat({name: value for name, value in config.items() if name not in WHERE_AND_HOW_OFTEN})


def again(folder: Path) -> str:
    """What to do about a folder that is of no use."""
    return f"delete {folder} to have the run made again"
