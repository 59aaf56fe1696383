"""What an experiment inherits and its paper does not say stands in the head of its file."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.config.compose import experiments_in
from tvr_lightning.config.objects import class_of
from tvr_lightning.methods.hashing import HashingModule
from tvr_lightning.optim import Optimizer

from ..kinds import composed

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SAID = re.compile(r"^# in the paper \(.*\): (.*)$", re.MULTILINE)
# of a run, not of its result
RUNNING = {"log_every_n_steps", "check_val_every_n_epoch", "callbacks", "loss_chunk", "compile_encoders"}
# choices of the suite, and what is another setting's value or Adam's own: a paper does not say that it has none
WHERE_GIVEN = {"encoder_lr", "logit_scale_lr", "decay", "bias_correction", "algorithm", "momentum"}
DATA = ("batch_size", "num_frames", "fps", "max_words", "caption_sampling", "selection")


def head(file: Path) -> str:
    """The comment that a file begins with."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def method_of(file: Path) -> Path:
    names = yaml.safe_load(file.read_text(encoding="utf-8"))["defaults"]
    return EXPERIMENTS / f"{next(name for name in names if name.startswith('method/'))}.yaml"


def recipe(config: dict[str, Any]) -> list[str]:
    """Names of the settings that a paper's recipe would have to say, in a fixed order."""
    names = sorted(key for key, value in config["trainer"].items() if value is not None)
    optimizer = config["model"]["init_args"]["optimizer"]
    names += [f.name for f in fields(Optimizer) if f.name not in WHERE_GIVEN or optimizer.get(f.name) is not None]
    names += [name for name in DATA if name != "caption_sampling" or not config["data"].get("join_captions")]
    return [name for name in names if name not in RUNNING]


PAPERS = [
    file
    for file in sorted(EXPERIMENTS.glob("*.yaml"))
    if SAID.search(head(method_of(file))) and "shapes" not in file.stem and "; not in the" not in head(file)
]


def test_every_paper_is_there() -> None:
    assert {method_of(file).stem for file in PAPERS} == {"drl", "ghan", "lean", "sptch", "tc_mgc", "xclip", "xpool"}


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_an_experiment_says_what_its_paper_does_not(file: Path) -> None:
    names = recipe(composed(file))
    said = SAID.search(head(method_of(file)))
    assert said is not None
    told = said[1].split(", ")
    assert set(told) <= set(names), "the method's file says of the paper what is not a setting here"
    line = f"not in the paper: {', '.join(name for name in names if name not in told)}"
    written = head(file).replace("\n# ", " ").removeprefix("# ")
    assert written.endswith(line) or f"{line};" in written, f"{file.name}: # {line}"


def test_no_label_chooses_the_weights_of_unsupervised_hashing() -> None:
    """Their checkpoints would be chosen by mAP, which counts labels."""
    configs = {name: composed(EXPERIMENTS / f"{name}.yaml") for name in experiments_in(EXPERIMENTS)}
    hashing = {name for name, c in configs.items() if issubclass(class_of(c["model"]) or object, HashingModule)}
    assert len(hashing) > 4
    assert {configs[name]["data"].get("selection") for name in hashing} == {"last"}
