"""The figures that papers report, as data: `experiments/reported.yaml` and what a run of ours is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.config.compose import find_file
from tvr_lightning.errors import ConfigError, nearest

if TYPE_CHECKING:
    from tvr_lightning.run.results import Run

REPORTED = find_file("experiments/reported.yaml")
TABLE_KEYS = {"paper", "table", "dataset", "split", "encoder", "conditions", "columns", "rows"}
OPTIONAL_KEYS = {"caution"}
METHOD_KEYS = {"method", "settings"}
RETRAINED = "†"
SUMMED = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Reported:
    """One row of a paper's table.

    Attributes:
        name: the row as the paper names it.
        method: the class of this suite that it means.
        settings: what of that class's configuration must have which value.
        dataset: as results name it.
        split: None where any will do.
        encoder: None where the paper does not say.
        source: paper and table.
        conditions: how the paper got it.
        caution: why the figures are doubtful; empty where nothing is known.
        metrics: by the suite's names, in percent where ours are; RSum and SumR are computed.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    dataset: str
    split: str | None
    encoder: str | None
    source: str
    conditions: str
    caution: str
    metrics: Mapping[str, float]

    def matches(self, run: Run) -> bool:
        """Whether a run has the same method, settings, dataset, split and encoder, over the whole test set.

        A run that lacks `config.yaml` matches no row that asks for settings.
        """
        content = run.content
        whole = not (content["partial"] or content["data"]["left_out"] or content["data"]["subset"])
        init_args = run.config.get("model", {}).get("init_args", {})
        return (
            whole
            and content["v2t"] == "sets"
            and _plain(content.get("method", "")) == _plain(self.method)
            and content["dataset"] == self.dataset
            and self.split in (None, content["split"])
            and self.encoder is not None
            and _plain(str(content.get("encoder", "")).removesuffix("-quickgelu")) == _plain(self.encoder)
            and all(key in init_args and init_args[key] == value for key, value in self.settings.items())
        )


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def load_reported(path: Path = REPORTED) -> list[Reported]:
    """Reads and checks the papers' figures.

    Raises:
        ConfigError: the file is missing, is no YAML, or an entry has unknown or missing keys, or figures that do not
            fit its columns.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or content.keys() != {"methods", "tables"}:
        raise ConfigError(f"{path}: the papers' figures are a mapping of `methods` and `tables`")
    if not isinstance(content["methods"], dict) or not isinstance(content["tables"], list):
        raise ConfigError(f"{path}: `methods` is a mapping and `tables` a list")
    methods: dict[str, Mapping[str, Any]] = {}
    for name, method in content["methods"].items():
        if not isinstance(method, dict) or method.keys() != METHOD_KEYS or not isinstance(method["settings"], dict):
            raise ConfigError(f"{path}: methods.{name}: give `method` and `settings`, a mapping")
        methods[name] = method
    entries: list[Reported] = []
    for number, table in enumerate(content["tables"], 1):
        entries += _table(table, methods, f"{path}: table {number}")
    return entries


def _table(table: Any, methods: Mapping[str, Mapping[str, Any]], where: str) -> list[Reported]:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: a table is a mapping, found {type(table).__name__}")
    known = TABLE_KEYS | OPTIONAL_KEYS
    for key in table.keys() - known:
        raise ConfigError(f"{where}: unknown key '{key}'; {nearest(str(key), known)}")
    if missing := sorted(TABLE_KEYS - table.keys()):
        raise ConfigError(f"{where}: without {', '.join(missing)}")
    for key in ("paper", "table", "dataset", "conditions"):
        if not isinstance(table[key], str) or not table[key]:
            raise ConfigError(f"{where}: {key} is {table[key]!r}; give text, in quotes where it is a number")
    for key in ("split", "encoder"):
        if not isinstance(table[key], str | None):
            raise ConfigError(f"{where}: {key} is {table[key]!r}; give text or null")
    columns, rows = table["columns"], table["rows"]
    if not isinstance(columns, list) or len(set(map(str, columns))) != len(columns) or not isinstance(rows, dict):
        raise ConfigError(f"{where}: columns is a list of different metrics, rows a mapping of names to figures")
    entries = []
    for row, figures in rows.items():
        if not isinstance(figures, list) or len(figures) != len(columns):
            raise ConfigError(f"{where}: row '{row}' does not give one figure for each of {len(columns)} columns")
        if bad := [f for f in figures if f is not None and (isinstance(f, bool) or not isinstance(f, int | float))]:
            raise ConfigError(f"{where}: row '{row}': {bad[0]!r} is no number; null where the paper has none")
        name = str(row).removesuffix(RETRAINED)
        conditions = table["conditions"] + ("; re-trained by this paper" if name != row else "")
        method = methods.get(name, {"method": name, "settings": {}})
        metrics = {str(c): float(f) for c, f in zip(columns, figures, strict=True) if f is not None}
        entries.append(
            Reported(
                name=name,
                method=str(method["method"]),
                settings=method["settings"],
                dataset=table["dataset"],
                split=table["split"],
                encoder=table["encoder"],
                source=f"{table['paper']}, Table {table['table']}",
                conditions=conditions,
                caution=table.get("caution", ""),
                metrics=metrics | _sums(metrics),
            )
        )
    return entries


def _sums(metrics: Mapping[str, float]) -> dict[str, float]:
    """RSum of each direction that has its terms, SumR where both have."""
    sums = {
        f"{direction}/RSum": sum(metrics[f"{direction}/{name}"] for name in SUMMED)
        for direction in ("t2v", "v2t")
        if all(f"{direction}/{name}" in metrics for name in SUMMED)
    }
    return sums | ({"SumR": sum(sums.values())} if len(sums) == 2 else {})


def reported_for(runs: Sequence[Run], entries: Sequence[Reported]) -> list[Reported]:
    """The rows that every one of some runs matches."""
    return [e for e in entries if all(e.matches(run) for run in runs)]
