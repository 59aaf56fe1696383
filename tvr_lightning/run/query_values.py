"""A run's `values.parquet`: what each query adds to metrics that ranks do not hold, such as mAP over labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_lightning.data.stores.files import atomic_write
from tvr_lightning.errors import RunError
from tvr_lightning.names import VALUES
from tvr_lightning.run.reading import read_columns
from tvr_lightning.run.results import caption_id
from tvr_lightning.visible import encodable

if TYPE_CHECKING:
    from torch import Tensor

    from tvr_lightning.data.split import Split
    from tvr_lightning.evaluation import EvaluationResult


@dataclass(frozen=True)
class StoredValues:
    """One metric of a run, read back in an order that does not depend on how the run came to its queries.

    Attributes:
        queries: (query, video) of every row; runs with equal ones can be compared query by query.
        value: (Q,) float64, in percent, NaN for queries that are left out.
    """

    queries: tuple[tuple[str, str], ...]
    value: Tensor


def write_values(folder: Path, result: EvaluationResult, split: Split) -> None:
    """Writes a row for each metric and query; a test with neither codes nor minimal pairs leaves no file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    videos = [encodable(split.records[i].video_id) for i in result.video_ids.tolist()]
    captions = [encodable(caption_id(split, i)) for i in result.caption_ids.tolist()]
    tables = [
        pa.table(
            {
                "metric": [name] * len(found.value),
                "query": [(captions if found.captions else videos)[i] for i in found.query.tolist()],
                "video": [videos[i] for i in found.video.tolist()],
                "value": found.value.tolist(),
            }
        )
        for name, found in result.values.items()
    ]
    if tables:
        with atomic_write(folder / VALUES) as temporary:
            pq.write_table(pa.concat_tables(tables), temporary)


def read_values(folder: Path) -> Mapping[str, StoredValues]:
    """Reads a run's `values.parquet`, by metric; empty where the test left none.

    Raises:
        RunError: it is damaged.
    """
    import torch

    if not (folder / VALUES).is_file():
        return {}
    columns = read_columns(folder / VALUES, ["metric", "query", "video", "value"])
    rows = defaultdict(list)
    for metric, query, video, value in zip(*columns.values(), strict=True):
        rows[metric].append((query, video, value))
    kept = {}
    for metric, found in rows.items():
        found.sort(key=lambda row: row[:2])  # NaN has no order
        queries = tuple((query, video) for query, video, _ in found)
        kept[metric] = StoredValues(queries, torch.tensor([value for _, _, value in found], dtype=torch.float64))
    return kept


def check_left_out(names: str, values: Tensor) -> None:
    """Refuses values of runs that leave out different queries: they cannot be compared query by query.

    Args:
        names: of the runs and the metric, for the message.
        values: (S, Q), NaN for queries that are left out.

    Raises:
        RunError: some runs have a value where others have none, or none has any.
    """
    unknown = values.isnan()
    if bool((unknown.any(0) & ~unknown.all(0)).any()):
        raise RunError(f"{names}: {VALUES} leave out different queries, they cannot be compared; test the runs again")
    if bool(unknown.all()):
        raise RunError(f"{names}: {VALUES} have no value; test the runs again")
