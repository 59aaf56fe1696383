"""Grids of runs: a W&B sweep file with `method: grid`, run point by point on this machine.

Each point is an ordinary `tvr fit` in its own process, so its memory is given back. A point's run id says what the
point is; a point that has a finished run is not run again, and one that was killed goes on from its last checkpoint: a
grid that was stopped goes on with the same command. `tvr reproduce` runs the rows of a paper's table in the same way.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import find_file
from tvr_lightning.config.text import parse_yaml
from tvr_lightning.errors import INTERRUPTED, TERMINATED, ConfigError, TVRError, nearest
from tvr_lightning.names import CHECKPOINTS, LAST, METRICS, folder_below
from tvr_lightning.visible import say

KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "project", "entity")
COMMAND = 'command: [tvr, fit, --config, experiments/NAME.yaml, "${args}"]'
RESERVED_OPTIONS = ("config", "c", "run_id")
NO_CHANGE = ("tracker", "runs_dir", "experiment")  # a run under these settings gives the same figures
LONGEST_NAME = 160
MOST_POINTS = 10_000  # a run each
GRACE_S = 5.0


@dataclass(frozen=True)
class Point:
    """One run of a grid.

    Attributes:
        name: its run id: `heads-4`, with a hash of the settings that all points share where there are any.
        home: the folder of its experiment's runs.
        words: arguments of `tvr fit`, without the run id.
    """

    name: str
    home: Path
    words: tuple[str, ...]

    def attempts(self) -> list[Path]:
        """Run folders of this point that exist."""
        return [p for p in (self.home / self.name, *sorted(self.home.glob(f"{self.name}_attempt-*"))) if p.is_dir()]

    def finished(self) -> Path | None:
        """The run folder that holds its result."""
        return next((p for p in self.attempts() if (p / METRICS).is_file()), None)

    def resumable(self) -> Path | None:
        """The newest run folder that has no result and weights to go on from."""
        kept = (p for p in reversed(self.attempts()) if not (p / METRICS).is_file())
        return next((p for p in kept if (p / CHECKPOINTS / LAST).is_file()), None)

    def command(self) -> list[str]:
        """The words after `tvr` that make its result, be it by going on."""
        if (begun := self.resumable()) is not None:
            return ["fit", *self.words, f"--resume={begun}"]
        return ["fit", *self.words, f"--run_id={self.next_run_id()}"]

    def next_run_id(self) -> str:
        """A run id that no folder has: the name, or `NAME_attempt-2` and so on after runs that did not finish."""
        names = itertools.chain([self.name], (f"{self.name}_attempt-{i}" for i in itertools.count(2)))
        return next(name for name in names if not (self.home / name).exists())


def read_grid(file: Path, base: str | None = None, overrides: Sequence[str] = ()) -> list[Point]:
    """Reads a sweep file; every point is composed and checked before one runs.

    Args:
        file: the sweep file.
        base: the experiment file instead of the one that `command` names.
        overrides: settings of all points, e.g. `--trainer.max_epochs=1`.

    Raises:
        ConfigError: the file is not a grid, a setting is unknown or does not fit, two points would have one name.
    """
    file = find_file(str(file))
    content = _load(file)
    own_base, shared = _command(content.get("command"), file)
    axes = _parameters(content.get("parameters"), file)
    experiment, shared = base or own_base, [*shared, *overrides]
    settings = named_settings(shared)
    for name in settings:
        if name in RESERVED_OPTIONS:
            raise ConfigError(f"--{name}: a grid sets this itself; --base FILE replaces its experiment")
        if name in map(_short, axes):
            raise ConfigError(f"--{name} is varied or set by {file}; take it out of one of the two")
    varied = [name for name, values in axes.items() if len(values) > 1] or list(axes)
    constants = {name: text for name, text in settings.items() if name not in NO_CHANGE}
    constants |= {_short(name): _text(values[0]) for name, values in axes.items() if name not in varied}
    if (count := math.prod(map(len, axes.values()))) > MOST_POINTS:
        raise ConfigError(f"{file}: a grid of {count:,} points; at most {MOST_POINTS:,}")
    points: dict[str, Point] = {}
    home = read_arguments(("--config", experiment, *shared))[0].get("experiment")
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        words = ("--config", experiment, *shared, *(f"--{name}={_text(value)}" for name, value in point.items()))
        config, flags = read_arguments(words)
        if flags:
            raise ConfigError(f"{flags[0]} is for one run: tvr fit --config {experiment} {flags[0]}")
        if "model" not in config:
            raise ConfigError(f"{experiment} is not an experiment: it names no model")
        if config["experiment"] != home:  # by what varies: one grid has one home
            words, config["experiment"] = (*words, f"--experiment={home}"), home
        name = point_name({key: point[key] for key in varied}, constants)
        if name in points:
            raise ConfigError(
                f"{file}: two points would both be called {name}; their values differ only in punctuation"
            )
        points[name] = Point(name, folder_below(str(config.get("runs_dir", "runs")), str(config["experiment"])), words)
    return list(points.values())


def run_grid(points: Sequence[Point], what: str = "ablate") -> tuple[list[Path], dict[str, int]]:
    """Runs the points that have no result yet, one after another.

    Args:
        points: in their order.
        what: begins each line that is said.

    Returns:
        The run folders that hold results, in the grid's order, and the exit codes of points that failed.

    Raises:
        KeyboardInterrupt: Ctrl-C here or in a run; nothing further is started.
    """
    results: list[Path] = []
    failed: dict[str, int] = {}
    for number, point in enumerate(points, start=1):
        place = f"{what} {number}/{len(points)} {point.name}"
        if done := point.finished():
            say(f"{place}: finished already, see {done}; remove that folder to run the point again", flush=True)
            results.append(done)
            continue
        begun, words = point.resumable(), point.command()
        if begun is not None:
            say(f"{place}: {begun} was started and continues from its last checkpoint", flush=True)
        else:
            _say_begun(place, point)
        folder = begun or point.home / point.next_run_id()
        say(f"{place}: tvr {shlex.join(words)}", flush=True)
        try:
            code = _run(words)
            if code in (INTERRUPTED, TERMINATED, -signal.SIGINT):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            say(f"{place}: interrupted; the same command runs this point again and continues", file=sys.stderr)
            raise
        if code == 0 and (folder / METRICS).is_file():
            results.append(folder)
        else:
            failed[point.name] = code
            say(f"{place}: FAILED, {_reason(code)}", file=sys.stderr, flush=True)
    for name, code in failed.items():
        say(f"{what}: {name} failed: {_reason(code)}", file=sys.stderr)
    say(f"{what}: {len(results)} of {len(points)} points have results, {len(failed)} failed", flush=True)
    return results, failed


def _say_begun(place: str, point: Point) -> None:
    for folder in point.attempts():
        say(
            f"{place}: {folder} was started and has no result ({METRICS}) and no checkpoint; it stays as it is and the "
            f"point runs as {point.next_run_id()}. Remove {folder} if nothing is running there.",
            flush=True,
        )


def check_points(points: Sequence[Point]) -> None:
    """Builds each point with the smallest encoders in place of its own, which shows values that its parts refuse.

    Raises:
        ConfigError: names the point, and what it refuses.
    """
    from tvr_lightning.config.objects import smallest_parts
    from tvr_lightning.run.build import build_cli
    from tvr_lightning.run.training import check_options

    for point in points:
        small = smallest_parts(read_arguments(point.words)[0])
        try:
            check_options(build_cli(read_arguments([*point.words, *small])[0]), "fit")
        except TVRError as error:
            raise ConfigError(f"{point.name}: {error}") from error


def describe(points: Sequence[Point]) -> str:
    """One line per point: the command that would run, or the result that is there."""
    lines = []
    for point in points:
        done = point.finished()
        command = shlex.join(["tvr", *point.command()])
        lines.append(f"# finished already: {done}" if done else command)
    return "\n".join(lines)


def _run(words: Sequence[str]) -> int:
    """Runs `tvr` in a process of its own; Ctrl-C waits until that process has kept its weights."""
    process = subprocess.Popen([sys.executable, "-m", "tvr_lightning", *words])
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            # a terminal tells both processes, `kill` only this one; a run that is saving ignores a second signal
            process.send_signal(signal.SIGINT)
            process.wait()
        raise
    finally:
        if process.poll() is None:  # Ctrl-C again
            process.kill()
            process.wait()


def _reason(code: int) -> str:
    if code == 0:
        return f"exit code 0, but it left no {METRICS}"
    return f"exit code {code}" if code > 0 else f"killed by signal {-code}"


def _load(file: Path) -> Mapping[str, Any]:
    import yaml

    if not file.is_file():
        known = [p.stem for p in file.parent.glob("[!.]*.yaml")]
        near = nearest(file.stem, known) if known else f"no .yaml file lies in {file.parent}"
        raise ConfigError(f"no grid file {file}: {near}")
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a grid is a W&B sweep file: a mapping with `command`, `method` and `parameters`")
    for key in content:
        if key not in KEYS:
            raise ConfigError(f"{file}: unknown key '{key}'; {nearest(str(key), KEYS)}")
    if content.get("method") != "grid":
        raise ConfigError(f"{file}: method is {content.get('method')!r}; `tvr ablate` runs only `method: grid`")
    return content


def _command(command: Any, file: Path) -> tuple[str, list[str]]:
    """The experiment file and the further settings of `command`."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    if words[:2] != ["tvr", "fit"] or words[-1] != "${args}":
        raise ConfigError(f"{file}: command is {command!r}; write {COMMAND}")
    options = iter(words[2:-1])
    configs: list[str] = []
    settings: list[str] = []
    for word in options:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            configs.append(value if equals else next(options, ""))
        else:
            settings.append(word)
    if len(configs) != 1 or not configs[0]:
        raise ConfigError(f"{file}: command names {len(configs)} experiments, a grid has one; write {COMMAND}")
    return configs[0], settings


def _parameters(parameters: Any, file: Path) -> dict[str, list[Any]]:
    """Setting names and their values."""
    if not isinstance(parameters, dict) or not parameters:
        raise ConfigError(f"{file}: no parameters; write parameters: {{model.heads: {{values: [1, 2]}}}}")
    axes: dict[str, list[Any]] = {}
    for name, part in parameters.items():
        where = f"{file}: parameters.{name}"
        if name in RESERVED_OPTIONS + NO_CHANGE:
            raise ConfigError(f"{where}: a grid sets this itself; name the experiment in `command`")
        if not isinstance(part, dict) or part.keys() not in ({"value"}, {"values"}):
            raise ConfigError(f"{where} is {part!r}; a parameter of a grid has `values: [...]` or `value: x`")
        values = part["values"] if "values" in part else [part["value"]]
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}.values is {values!r}; it must be a list that is not empty")
        for value in values:
            if value is None:
                raise ConfigError(f"{where}: W&B would pass null on as the text None; write 'null' in quotes")
        axes[str(name)] = values
    return axes


def named_settings(words: Sequence[str]) -> dict[str, str]:
    """`--a.b=c` and `--a.b c` as names and texts; what is no setting is left to `read_arguments`."""
    settings: dict[str, str] = {}
    options = iter(words)
    for word in options:
        name, equals, value = word.lstrip("-").partition("=")
        settings[_short(name)] = value if equals else next(options, "")
    return settings


def _text(value: Any) -> str:
    """A value as a setting's text, which is read as YAML; W&B's agent writes the same value in Python's way."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _short(name: str) -> str:
    return name.replace(".init_args.", ".")


def point_name(varied: Mapping[str, Any], constants: Mapping[str, str]) -> str:
    """A run id: names and values of what varies, and a hash of the settings that all points share."""
    name = "_".join(f"{_short(key).removeprefix('model.')}-{_label(value)}" for key, value in varied.items())
    cut = name[:LONGEST_NAME]
    if cut == name and not constants:
        return name
    rest = repr((name.removeprefix(cut), sorted(constants.items())))
    return f"{cut}_{hashlib.sha256(rest.encode()).hexdigest()[:6]}"


def _label(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_label, value)) or "none"
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", _text(value))
