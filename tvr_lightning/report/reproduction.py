"""A paper's own rows made again: which experiment makes which row, and what the runs' figures say of the printed ones.

A printed figure is of one run, over the same test videos as ours. What may set the two apart by chance is therefore the
seed: a difference is beyond seed noise where the printed figure lies outside the range of one further run of ours (see
`metrics.seeds`), its rounding granted. The noise of the paper's own run is not known; it is taken to be as large as
ours.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import FOLDER, PACKAGED, compose, known_experiments
from tvr_lightning.config.objects import build_reader, class_of
from tvr_lightning.errors import ConfigError, TVRError, nearest
from tvr_lightning.names import folder_below
from tvr_lightning.report.groups import Group, group_runs
from tvr_lightning.report.reported import SUMMED, Reported, plain
from tvr_lightning.run.ablation import NO_CHANGE, Point, named_settings, point_name
from tvr_lightning.run.results import Run, without_synonyms

Verdict = Literal["within", "beyond", "inside", "outside", "not judged"]
SMOKE = ("--trainer.max_epochs=2", "--trainer.max_steps=12", "--trainer.check_val_every_n_epoch=1", "--tracker=none")
TAKEN = ("config", "c", "run_id", "seed_everything", "experiment", "runs_dir", "resume", "ckpt_path", "weights")
NOISE = 1e-9  # of sums of floats


@dataclass(frozen=True)
class Target:
    """A row of a paper, and what makes it here.

    Attributes:
        entry: what is printed.
        experiment: the name of its file.
        overrides: settings in which the row differs from it.
    """

    entry: Reported
    experiment: str
    overrides: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The row's name with what tells it from the paper's others."""
        e = self.entry
        return f"{e.name}, {e.dataset} {e.split}, {e.encoder}"


@dataclass(frozen=True)
class Figure:
    """One figure of a row.

    Attributes:
        key: the metric.
        printed: the paper's.
        mean: over our runs.
        interval: 95 %, of the mean on other videos and seeds; None where it cannot be told.
        further: 95 % range of one further seed; None of one run.
        verdict: of several runs `within` or `beyond` seed noise; of one whether the printed figure lies `inside` or
            `outside` the interval.
    """

    key: str
    printed: float
    mean: float
    interval: tuple[float, float] | None
    further: tuple[float, float] | None
    verdict: Verdict

    @property
    def difference(self) -> float:
        """Ours minus the paper's."""
        return self.mean - self.printed


@dataclass(frozen=True)
class ReproducedRow:
    """A row, with what was found.

    Attributes:
        target: what it is.
        group: its finished runs; None where there are none.
        figures: one for each that the paper prints and the runs have.
        notes: what to read with it; first why nothing is judged, if so.
    """

    target: Target
    group: Group | None
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]

    def of(self, *verdicts: Verdict) -> list[Figure]:
        """Its figures with one of these verdicts."""
        return [figure for figure in self.figures if figure.verdict in verdicts]


def targets_of(paper: str, entries: Sequence[Reported]) -> tuple[list[Target], list[Reported]]:
    """The rows of a paper's own method in its main tables; of a baseline those that other papers print.

    Args:
        paper: the name of its method's file, `tc_mgc`.
        entries: the papers' figures.

    Returns:
        What experiments make, and rows that none makes.

    Raises:
        ConfigError: no paper of that name, or it prints nothing.
    """
    methods = {file.stem: _method(file) for file in sorted((PACKAGED / "method").glob("*.yaml"))}
    main = [e for e in entries if not e.ablation]
    known = [name for name, method in methods.items() if any(plain(e.method) == plain(method) for e in main)]
    if paper not in known:
        raise ConfigError(f"no figures of a paper '{paper}'; {nearest(paper, known)}")
    own = [e for e in main if plain(e.method) == plain(methods[paper])]
    own = [e for e in own if e.file == paper] or own
    candidates = list(_candidates(paper, methods[paper]))
    made: dict[tuple[str, tuple[str, ...]], Target] = {}
    without: list[Reported] = []
    for entry in sorted(own, key=lambda e: bool(e.caution)):  # of rows that several tables print the undoubted one
        target = _target(entry, candidates)
        if target is None:
            without.append(entry)
        else:
            made.setdefault((target.experiment, target.overrides), target)
    order = {id(entry): place for place, entry in enumerate(own)}
    return sorted(made.values(), key=lambda t: order[id(t.entry)]), without


def _method(file: Path) -> str:
    return str((compose(file).get("model") or {}).get("class_path") or "").rpartition(".")[2]


@dataclass(frozen=True)
class _Candidate:
    """An experiment, with what a row is compared with."""

    name: str
    method: str
    dataset: str
    split: str
    encoder: str
    arguments: Mapping[str, Any]


def _candidates(part: str, method: str) -> Iterator[_Candidate]:
    """Experiments that train a method, shorter names first; files that name neither it nor its part are not read."""
    for name, file in sorted(known_experiments().items(), key=lambda item: (len(item[0]), item[0])):
        text = file.read_text(encoding="utf-8", errors="replace")
        if f"method/{part}" not in text and method not in text:
            continue
        config = compose(file)
        model = config.get("model") or {}
        cls = class_of(model) if str(model.get("class_path")).rpartition(".")[2] == method else None
        if cls is None or not config.get("trains", True):
            continue
        reader = build_reader((config.get("data") or {}).get("annotations"))
        given = model.get("init_args") or {}
        parts = [value for value in given.values() if isinstance(value, dict) and "class_path" in value]
        encoder = " + ".join(str((part.get("init_args") or {}).get("model")) for part in parts)
        defaults = {key: p.default for key, p in inspect.signature(cls).parameters.items()}
        yield _Candidate(name, method, reader.name, _protocol(reader), encoder, defaults | given)


def _protocol(reader: Any) -> str:
    try:
        return str(reader.protocol)
    except TVRError:  # own data learn theirs from files that are not here
        return ""


def _target(entry: Reported, candidates: Sequence[_Candidate]) -> Target | None:
    """The experiment that needs the fewest settings for a row; of several the one with the shortest name."""
    fitting = [c for c in candidates if entry.is_of(c.method, c.dataset, c.split, c.encoder)]
    made = [Target(entry, c.name, _differing(entry, c)) for c in fitting if entry.settings.keys() <= c.arguments.keys()]
    return min(made, key=lambda t: len(t.overrides), default=None)


def _differing(entry: Reported, candidate: _Candidate) -> tuple[str, ...]:
    return tuple(
        f"--model.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in entry.settings.items()
        if _listed(candidate.arguments[key]) != value
    )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def points_of(
    target: Target, seeds: Sequence[int], runs_dir: Path, settings: Sequence[str] = (), smoke: Path | None = None
) -> list[Point]:
    """The runs of a row, one a seed.

    Args:
        target: the row.
        seeds: of the runs.
        runs_dir: where runs lie.
        settings: of all runs, e.g. `--trainer.devices=4`.
        smoke: a folder for generated data, on which tiny encoders train for some steps; None for the row as it is.

    Raises:
        ConfigError: a setting does not fit, or is one that a reproduction sets itself.
    """
    for name in named_settings(settings):
        if name in TAKEN:
            raise ConfigError(f"--{name}: a reproduction sets this itself; see `tvr reproduce --help`")
    file = Path(FOLDER, f"{target.experiment}.yaml")
    words = ["--config", str(file)]
    if smoke is not None:
        from tvr_lightning.run.smoke import small_arguments, smoke_data

        words = [*small_arguments(known_experiments()[target.experiment], smoke_data(file, smoke), runs_dir), *SMOKE]
    words += [*target.overrides, f"--runs_dir={runs_dir}", *settings]
    config, flags = read_arguments(words)
    if flags:
        raise ConfigError(f"{flags[0]} is for one run: tvr fit --config {file} {flags[0]}")
    home = folder_below(runs_dir, str(config["experiment"]))
    changed = named_settings([*target.overrides, *settings])
    constants = {name: text for name, text in changed.items() if name not in NO_CHANGE}
    return [Point(point_name({"seed": seed}, constants), home, (*words, f"--seed_everything={seed}")) for seed in seeds]


def reproduced(target: Target, runs: Sequence[Run], wanted: int, smoke: bool = False) -> ReproducedRow:
    """Holds a row's runs against what is printed.

    Args:
        target: the row.
        runs: its finished runs, of different seeds.
        wanted: how many there should be.
        smoke: whether they are of generated data, which no figure is about.
    """
    entry, notes = target.entry, []
    if not runs:
        return ReproducedRow(target, None, (), ("not one run has a result",))
    group = Group(tuple(runs))
    marks = list(dict.fromkeys(mark for run in runs for mark in run.marks))
    if marks:
        notes.append(f"not judged: {'; '.join(marks)}")
    elif not smoke and not all(entry.matches(run) for run in runs):
        notes.append("not judged: method, settings, data or encoder of the runs are not those of the paper's row")
    judged = not notes
    if len(runs) < wanted:
        notes.append(f"{len(runs)} of {wanted} runs have a result")
    if len(runs) == 1:
        notes.append("one seed: seed noise is not known, the interval holds the choice of videos alone")
    if len(runs) == 2:
        notes.append("two seeds: they say so little of a third that next to nothing is beyond it; make three")
    if len(group_runs(runs)) > 1:
        notes.append("the runs differ in more than their seed (device, precision, or what changed between them)")
    notes += without_synonyms(group.first.content)
    if entry.caution:
        notes.append(f"caution: {entry.caution}")
    keys = [*entry.printed, *(key for key in ("SumR",) if key in entry.metrics and key not in entry.printed)]
    return ReproducedRow(
        target, group, tuple(f for key in keys if (f := _figure(group, entry, key, judged)) is not None), tuple(notes)
    )


def _figure(group: Group, entry: Reported, key: str, judged: bool) -> Figure | None:
    summary = group.summary(key)
    if summary is None:
        return None
    from tvr_lightning.metrics.seeds import one_more_run

    printed, values = entry.metrics[key], group.values(key)
    interval = group.interval_over_seeds(key)
    further = one_more_run(values)
    verdict: Verdict = "not judged"
    if judged and not key.endswith("/MdR"):  # a median moves in steps: equal ones say nothing of its noise
        alike = [entry.metrics[k] for k in (key, *entry.printed) if _kind(k) == _kind(key)]
        verdict = judge(printed, interval, further, rounding(key, *alike))
    return Figure(key, printed, summary[0], interval, further, verdict)


def judge(
    printed: float, interval: tuple[float, float] | None, further: tuple[float, float] | None, grant: float
) -> Verdict:
    """What a printed figure is by what chance allows.

    Args:
        printed: the figure.
        interval: of the mean on other videos and seeds.
        further: the range of one further seed; None of one run. Of runs that all agree it has no width, and says
            nothing.
        grant: by how much the printed one may have been rounded.

    >>> judge(47.4, (44.0, 50.0), (45.9, 47.0), 0.05), judge(47.4, (44.0, 50.0), None, 0.05)
    ('beyond', 'inside')
    """
    bounds = further or interval
    if bounds is None or not all(map(isfinite, (printed, *bounds))):
        return "not judged"
    if further is not None and further[1] - further[0] < NOISE:
        return "not judged"  # a figure moves in steps, one a query: that seeds agree does not mean that they always do
    inside = bounds[0] - grant - NOISE <= printed <= bounds[1] + grant + NOISE
    if further is not None:
        return "within" if inside else "beyond"
    return "inside" if inside else "outside"


def _kind(key: str) -> str:
    return key.rpartition("/")[2].partition("@")[0]


def rounding(key: str, *printed: float) -> float:
    """Half of a printed figure's last digit, for each figure that a sum consists of.

    Args:
        key: the metric.
        printed: the figure, and those of its kind in the row: a zero at the end does not show in a number.

    >>> rounding("t2v/R@1", 47.4), rounding("hash/t2v/mAP", 22.1, 22.17), round(rounding("SumR", 410.1), 2)
    (0.05, 0.005, 0.3)
    """
    if key == "SumR":
        return 2 * len(SUMMED) * 0.05
    digits = max(len(repr(round(figure, 4)).partition(".")[2]) for figure in printed)
    return 0.5 * 10**-digits
