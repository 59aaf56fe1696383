"""The columns of a comparison: metrics of the test and what a run took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.names import LEAKY, PROBE
from tvr_lightning.run.results import DIRECTIONS, LOWER_IS_BETTER, Run

SHORT = ("R@1", "R@5", "R@10", "MdR")
LONG = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "RSum", "mAP")
COSTS = {
    "train_time_s": ("train", "min", 1 / 60),
    "peak_memory_mib": ("mem", "GiB", 1 / 1024),
    "parameters": ("params", "M", 1e-6),
}


@dataclass(frozen=True)
class Column:
    """A column: a metric below `test/`, or one of `COSTS`.

    Attributes:
        key: the metric, or the field of `metrics.json`.
        over: first line of the header.
        title: its second line.
        digits: after the point.
    """

    key: str
    over: str
    title: str
    digits: int = 1

    @property
    def is_cost(self) -> bool:
        """Whether it says what a run took, not how good it is."""
        return self.key in COSTS

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is, 0 where neither."""
        name = self.key.rpartition("/")[2]
        return 0 if self.is_cost or name.startswith("n_") else -1 if name in LOWER_IS_BETTER else 1


def figure(run: Run, key: str) -> float | None:
    """A run's metric below `test/`, or one of `COSTS`; a leaky run's is the one below `leaky/`."""
    if key in COSTS:
        value = run.content.get(key)
        return value * COSTS[key][2] if value else None  # 0 s: tested only
    metrics = run.content["metrics"]
    found = metrics.get(f"test/{key}", metrics.get(f"test/{LEAKY}{key}"))
    return None if found is None else float(found)


def choose_columns(runs: Sequence[Run], metrics: Sequence[str] = (), full: bool = False) -> tuple[Column, ...]:
    """The metrics named, else the usual ones that some run has; then the costs.

    Raises:
        ConfigError: a metric is named that no run has.
    """
    names = (name.removeprefix("test/").removeprefix(LEAKY) for run in runs for name in run.content["metrics"])
    known = list(dict.fromkeys(names))
    for name in metrics:
        if name not in known:
            raise ConfigError(f"--metrics: no run has '{name}'; {nearest(name, known)}")
    keys = metrics or dict.fromkeys(key for key in _usual(known, full) if key in known)
    costs = [Column(key, over, title) for key, (over, title, _) in COSTS.items()]
    return (*(_column(key, runs) for key in keys), *(c for c in costs if any(figure(r, c.key) for r in runs)))


def _usual(known: Sequence[str], full: bool) -> Iterator[str]:
    yield from (f"{d}/{n}" for d in DIRECTIONS for n in (LONG if full else SHORT))
    yield "SumR"
    yield from (f"hash/{d}/mAP" for d in DIRECTIONS)
    yield from sorted(n for n in known if n.startswith(PROBE))
    if full:
        yield from known


def _column(key: str, runs: Sequence[Run]) -> Column:
    over, _, title = key.rpartition("/")
    largest = max(abs(figure(run, key) or 0.0) for run in runs)
    fraction = 0 < largest <= 1 and over not in (*DIRECTIONS, "probe")
    return Column(key, over, title, 3 if fraction else 1)
