"""What LEAN's readout takes, of trained runs: whose states it weighs, and how far they are from the prior.

    python benchmarks/lean_readout.py [RUN ...] [--pairs 4096] [--json]

A RUN is a run's folder, one of its checkpoints, or a folder above runs; without any, all below runs/lean_shapes. Over
the test split: SumR. Over hypergraphs of matching and other pairs, mixed as in a training batch: Eq. 16's weight on
words, frames, the video node and hyperedges of each kind, in percent; the divergence from the prior in nats a
dimension, and sigma, both means over states. Runs of the grids in `experiments/ablations/lean/` over several seeds say
so what `variational`, `kl_weight`, `readout` and each network do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tvr_lightning import load_run
from tvr_lightning.errors import TVRError
from tvr_lightning.evaluation import encode_split, evaluate
from tvr_lightning.evaluation.encoding import EncodedSplit, inference
from tvr_lightning.methods.lean import LEAN, WordFeatures
from tvr_lightning.names import CHECKPOINTS, CONFIG
from tvr_lightning.nn.lean.hypergraph import KINDS, pair_hypergraphs, visual_nodes
from tvr_lightning.nn.lean.variational import gaussian_divergence
from tvr_lightning.types import VideoFeatures

RUNS = Path("runs/lean_shapes")
BLOCK = 16  # captions, and videos, whose pairs are taken: a training batch


@dataclass(frozen=True)
class Account:
    """What a run's readout takes.

    Attributes:
        sum_r: over the test split.
        shares: of Eq. 16's weight, by `words`, `frames`, `video` and kinds of hyperedges; they add up to 1.
        divergence: from the prior, mean over states and dimensions; None where states have no spread.
        sigma: mean over the same, None likewise.
    """

    sum_r: float
    shares: Mapping[str, float]
    divergence: float | None
    sigma: float | None


def account(model: LEAN, split: EncodedSplit[WordFeatures, VideoFeatures], pairs: int) -> Account:
    """Measures a model on a split, up to so many of its pairs."""
    with inference(model):
        sum_r = evaluate(model, split, model.evaluation, final=False).metrics["SumR"]
        weights: dict[str, list[Tensor]] = {}
        divergence, sigma = [], []
        for texts, videos in blocks(split, pairs):
            visual, visual_mask = visual_nodes(videos.frames, videos.frame_mask)
            graphs, _ = pair_hypergraphs(texts.words, texts.word_mask, visual, visual_mask, model.scorer.kinds)
            states, owner = model.scorer.states_of(graphs)
            weight = model.scorer.readout.weights(states.mean, owner, graphs.size)
            nodes = len(graphs.x)
            first = torch.ones_like(graphs.textual)
            first[1:] = graphs.textual[1:] != graphs.textual[:-1]  # of a pair's nodes the video's follows the words
            first[1:] |= graphs.graph[1:] != graphs.graph[:-1]
            groups = {
                "words": graphs.textual,
                "frames": ~graphs.textual & ~first,
                "video": ~graphs.textual & first,
            }
            for name, members in groups.items():
                weights.setdefault(name, []).append(weight[:nodes][members].sum() / graphs.size)
            for number, kind in enumerate(KINDS):
                if len(weight) > nodes and kind in model.scorer.kinds:
                    members = graphs.hyperedge_kind == number
                    weights.setdefault(kind, []).append(weight[nodes:][members].sum() / graphs.size)
            if states.log_sigma is not None:
                divergence.append(gaussian_divergence(states.mean, states.log_sigma).mean())
                sigma.append(states.log_sigma.exp().mean())
    return Account(
        sum_r,
        {name: float(torch.stack(found).mean()) for name, found in weights.items()},
        float(torch.stack(divergence).mean()) if divergence else None,
        float(torch.stack(sigma).mean()) if sigma else None,
    )


def blocks(
    split: EncodedSplit[WordFeatures, VideoFeatures], pairs: int
) -> Iterator[tuple[WordFeatures, VideoFeatures]]:
    """Captions with their videos, `BLOCK` at a time."""
    split = split.captioned()
    for start in range(0, min(len(split.texts), pairs // BLOCK), BLOCK):
        rows = torch.arange(start, min(start + BLOCK, len(split.texts)))
        yield split.texts[rows], split.videos[split.caption_row[rows]]


def runs_of(paths: Sequence[Path]) -> list[Path]:
    """Runs and checkpoints that paths mean."""
    found: list[Path] = []
    for path in paths or [RUNS]:
        if path.is_file() or (path / CONFIG).is_file():
            found.append(path)
        else:
            found += sorted(p.parent for p in path.rglob(CONFIG) if (p.parent / CHECKPOINTS).is_dir())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--pairs", type=int, default=4096, help="hypergraphs looked at")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    runs = runs_of(options.runs)
    if not runs:
        print(f"no run with weights in {', '.join(map(str, options.runs or [RUNS]))}; make train EXP=lean_shapes first")
        return 1 if options.runs else 0
    accounts: dict[str, Account] = {}
    for path in runs:
        try:
            run = load_run(path)
        except TVRError as error:
            parser.exit(1, f"{path}: {error}\n")
        if not isinstance(run.model, LEAN):
            parser.exit(1, f"{path} is a run of {type(run.model).__name__}; this is LEAN's readout alone\n")
        run.data.setup("test")
        split = run.data.split_of("test")
        encoded = encode_split(run.model, split, run.data.evaluation_loaders(split))
        accounts[str(path)] = account(run.model, encoded, options.pairs)
    if options.json:
        print(json.dumps({path: vars(a) for path, a in accounts.items()}, indent=2))
        return 0
    table = Table("run", "SumR", *(names := ["words", "frames", "video", *KINDS]), "divergence", "sigma")
    for name, a in accounts.items():
        shares = [f"{100 * a.shares[x]:.1f}" if x in a.shares else "-" for x in names]
        ends = ["-" if x is None else f"{x:.2e}" for x in (a.divergence, a.sigma)]
        table.add_row(name, f"{a.sum_r:.1f}", *shares, *ends)
    Console(width=None if Console().is_terminal else 160).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
