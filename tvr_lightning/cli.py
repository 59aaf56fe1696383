"""The command `tvr`: quick answers first, heavy imports only when there is work to do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tvr_lightning import __version__
from tvr_lightning.errors import ConfigError, TVRError, nearest

INTERRUPTED = 130
TABLE_WIDTH = 160
FULL_WIDTH = 500

HELP = """usage: tvr COMMAND ...

Text-video retrieval methods, trained and compared honestly.

  fit       train an experiment, then test it     tvr fit --config experiments/clip4clip_shapes.yaml
            go on with one that was killed        tvr fit --config experiments/X.yaml --resume=last
  validate  evaluate weights on the split that selects
  test      evaluate weights on the test split    tvr test --config experiments/X.yaml --ckpt_path=best
  predict   write the ten best items of every test caption and video
  ablate    run a grid of settings, then compare  tvr ablate --config experiments/ablations/tc_mgc/heads.yaml
  compare   one table over runs and seeds         tvr compare runs/clip4clip_shapes --baseline RUN --format markdown
            mAP by code length as a picture       tvr compare runs/sptch_shapes_16 runs/sptch_shapes_64 --plot bits
  encode    write the codes of a split            tvr encode runs/sptch_shapes_64/RUN --split train
  leakcheck say whether a method's scores read the answer: train it on noise, test it on other noise
                                                  tvr leakcheck --config experiments/X.yaml
  inspect   draw what a run looks at              tvr inspect runs/tc_mgc_shapes/RUN 'video1300#0'
  dashboard one page over runs: runs/report.html  tvr dashboard
  data      make the embedded dataset             tvr data shapes
            say what a dataset lacks              tvr data check --config experiments/X.yaml
            compress videos, describe a dataset   tvr data compress SRC DST, tvr data stats --config experiments/X.yaml
  triples   print what captions say               tvr triples "a man in a red shirt is playing a guitar"
  experiments  list the experiments with what each reproduces
  smoke     run every experiment for two batches on tiny generated data

Settings of an experiment follow as --trainer.x, --data.x, --model.x, e.g. --trainer.max_epochs=1 --data.batch_size=8;
`tvr fit --config FILE --help` lists them all, `tvr fit --config FILE --print_config` shows the resolved experiment.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 for an error, 2 for a wrong call, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    command = _COMMANDS.get(words[0])
    try:
        if command is None:
            raise ConfigError(f"no command '{words[0]}'; {nearest(words[0], _COMMANDS)}")
        return command(words)
    except ConfigError as error:
        print(f"tvr: {error}", file=sys.stderr)
        return 2
    except TVRError as error:
        print(f"tvr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tvr: interrupted", file=sys.stderr)
        return INTERRUPTED


def _lightning(words: Sequence[str]) -> int:
    from tvr_lightning.arguments import read_arguments

    command = words[0]
    config, flags = read_arguments(words[1:])
    if "model" not in config and not flags:
        raise ConfigError(f"`tvr {command}` needs an experiment: --config experiments/NAME.yaml")
    from tvr_lightning.training import run

    return run(command, config, flags)


def _compare(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("tvr compare", description="One table over the test results of runs.")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or folders above runs; all when none is given")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    parser.add_argument("--baseline", metavar="RUN|EXPERIMENT", help="mark significant differences from it")
    parser.add_argument("--metrics", default="", metavar="A,B", help="these columns, e.g. t2v/R@1,t2v/mAP,probe/order")
    parser.add_argument("--full", action="store_true", help="all columns, differences and conditions spelt out")
    parser.add_argument("--format", choices=("table", "markdown", "latex", "csv"), default="table")
    parser.add_argument("--plot", choices=("bits",), help="draw mAP by code length instead, into RUNS_DIR")
    options = parser.parse_args(words[1:])
    from tvr_lightning.comparison import compare, runs_with_baseline
    from tvr_lightning.comparison_text import FORMATS, to_table
    from tvr_lightning.reported import REPORTED, load_reported

    runs = runs_with_baseline(options.runs, options.runs_dir, options.baseline)
    if options.plot:
        from tvr_lightning.dashboard.hashing import BITS_FIGURE, write_bits

        print(write_bits(runs, options.runs_dir / BITS_FIGURE))
        return 0
    metrics = [name.strip() for name in options.metrics.split(",") if name.strip()]
    reported = load_reported() if REPORTED.is_file() else []
    comparison = compare(runs, options.baseline, metrics, options.full, reported)
    if options.format == "table":
        _print_wide(to_table(comparison), FULL_WIDTH if options.full else TABLE_WIDTH)
    else:
        print(FORMATS[options.format](comparison), end="")
    return 0


def _print_runs(paths: Sequence[Path], runs_dir: Path = Path("runs")) -> None:
    from tvr_lightning.comparison import compare_table
    from tvr_lightning.results import find_runs

    _print_wide(compare_table(find_runs(paths, runs_dir)), TABLE_WIDTH)


def _print_wide(table: Any, width: int) -> None:
    from rich.console import Console

    # figures that are cut say nothing: a narrow terminal wraps lines, a file takes them whole
    Console(width=max(Console().width, width)).print(table)


def _ablate(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "tvr ablate",
        description="Run every point of a grid (a W&B sweep file) as `tvr fit`, then compare them.",
        epilog="Settings of all points follow, e.g. --trainer.max_epochs=1. Points with a result are not run again.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, required=True, help="the grid: experiments/ablations/METHOD/NAME.yaml")
    parser.add_argument("--base", help="experiment file instead of the grid's own")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, run nothing")
    options, settings = parser.parse_known_args(words[1:])
    from tvr_lightning.ablation import describe, read_grid, run_grid

    points = read_grid(options.config, options.base, settings)
    if options.dry_run:
        print(describe(points))
        return 0
    results, failed = run_grid(points)
    if results:
        _print_runs(results)
    return 1 if failed else 0


def _encode(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("tvr encode", description="Packed codes of a split's captions and videos.")
    parser.add_argument("run", type=Path, help="a run's folder, of a method that makes codes")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--out", type=Path, help="the file (default: codes.npz in the run's folder)")
    options = parser.parse_args(words[1:])
    from tvr_lightning.encode import encode_run

    path, codes = encode_run(options.run, options.split, options.out)
    print(f"{path}: " + ", ".join(f"{len(c):,} {name} codes of {c.bits} bits" for name, c in codes.items()))
    return 0


def _inspect(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "tvr inspect", description="Draw the attention and the contrasts' scores of a run as PNG files in its folder."
    )
    parser.add_argument("run", type=Path, help="a run's folder, of a method that looks at frames through the text")
    parser.add_argument("query", help="a test caption's id (video7#0), or any text")
    parser.add_argument("--video", help="look at this test video; default: the caption's own, or the best for a text")
    parser.add_argument("--against", type=Path, nargs="*", default=(), metavar="RUN", help="runs to show beside")
    options = parser.parse_args(words[1:])
    from tvr_lightning.inspection import inspect_run

    for path in inspect_run(options.run, options.query, options.video, options.against):
        print(path)
    return 0


def _leakcheck(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "tvr leakcheck",
        description="Train an experiment's method on noise for a minute and test it on fresh noise, which nothing can "
        "retrieve. Exit code 1 when it is retrieved above chance: scores read the ground truth.",
        epilog="Settings of the experiment follow, e.g. --model.pairing=matched. See docs/leakage.md.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", required=True, help="the experiment")
    for name, what in {"steps": "training steps", "batch_size": "pairs of a step", "pairs": "training pairs",
                       "videos": "test videos", "texts": "test captions, more than videos", "seed": "of everything",
                       "num_frames": "frames of a video", "max_words": "tokens of a caption"}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--lr", type=float, help="learning rate")
    options, settings = parser.parse_known_args(words[1:])
    sizes = vars(options)
    experiment = ["--config", sizes.pop("config"), *settings]
    from tvr_lightning.arguments import read_arguments

    read_arguments(experiment)  # a wrong file or setting is said before the slow imports
    from tvr_lightning.leakcheck import check_leak
    from tvr_lightning.noise import LeakProbe

    report = check_leak(experiment, LeakProbe(**sizes))
    print(report.text())
    return 1 if report.leaks else 0


def _dashboard(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("tvr dashboard", description="One static page over runs, RUNS_DIR/report.html.")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or folders above runs; all when none is given")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    options = parser.parse_args(words[1:])
    from tvr_lightning.dashboard.page import write_page
    from tvr_lightning.dashboard.wandb_report import write_report
    from tvr_lightning.results import find_runs

    runs = find_runs(options.runs, options.runs_dir)
    print(write_page(runs, options.runs_dir / "report.html"))
    print(write_report(runs))
    return 0


def _data(words: Sequence[str]) -> int:
    from tvr_lightning.cli_data import run_data

    return run_data(words[1:])


def _triples(words: Sequence[str]) -> int:
    from tvr_lightning.cli_triples import run_triples

    return run_triples(words[1:])


def _experiments(words: Sequence[str]) -> int:
    argparse.ArgumentParser("tvr experiments", description="The experiments, with what each reproduces.").parse_args(
        words[1:]
    )
    from tvr_lightning.catalogue import experiments_table, list_experiments

    _print_wide(experiments_table(list_experiments()), TABLE_WIDTH)
    return 0


def _smoke(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("tvr smoke", description="Run experiments for two batches on tiny generated data.")
    parser.add_argument("experiments", nargs="*", help="names; all when none is given")
    options = parser.parse_args(words[1:])
    from tvr_lightning.smoke import smoke

    return smoke(options.experiments)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "fit": _lightning,
    "validate": _lightning,
    "test": _lightning,
    "predict": _lightning,
    "ablate": _ablate,
    "compare": _compare,
    "encode": _encode,
    "leakcheck": _leakcheck,
    "inspect": _inspect,
    "dashboard": _dashboard,
    "data": _data,
    "triples": _triples,
    "experiments": _experiments,
    "smoke": _smoke,
}
