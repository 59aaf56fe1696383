"""What a video costs each method: products and milliseconds of scoring it against 1,000 captions.

    python benchmarks/cost.py [--device cpu] [--json]

Methods are those of their MSR-VTT experiments, their heads at full size (D 512, the recipe's words and frames, every
place filled) on features of small encoders with random weights: encoding costs the same in all that share an encoder
and is left out. FLOPs are those of matrix products and convolutions as `torch.utils.flop_counter` counts them, two a
multiplication; of LEAN's attention, which measures distances, they leave out the distances. `written out` is the
paper's equations for every pair (TC-MGC), or every pair's graphs in torch_geometric (LEAN, GHAN). `paper` is the column
"Speed" of TC-MGC's Table 1b: whole inference for a video on an RTX 3090.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from cases import Case
from measure import add_device, write_results
from rich.console import Console
from rich.table import Table
from score import OWN
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tvr_lightning.config.compose import compose
from tvr_lightning.config.objects import class_of
from tvr_lightning.encoders import BERTSize, CLIPSize, VGGSize
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.types import TensorRows, TextInput, VideoInput

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
WIDTH, TEXTS, DIFFERENT = 512, 1000, 8  # captions that are scored, and how many of them differ
SMALL = {  # the heads see their features' width only
    "CLIPEncoder": CLIPSize(32, 16, 64, 1, 1, 64, 1, 1, WIDTH),
    "VGGEncoder": VGGSize(16, ((8,),), 2, 16, 4096),
    "BERTEncoder": BERTSize(48, 1, 1, 64, 1000),
}
CASES: dict[str, tuple[str, Mapping[str, Any], float | None]] = {
    "mean pooling": ("mean_pool_msrvtt", {}, None),
    "CLIP4Clip meanP": ("clip4clip_msrvtt", {"similarity": "meanP"}, 14.4),
    "CLIP4Clip seqLSTM": ("clip4clip_msrvtt", {"similarity": "seqLSTM"}, 52.5),
    "CLIP4Clip seqTransf": ("clip4clip_msrvtt", {"similarity": "seqTransf"}, 199.6),
    "CLIP4Clip tightTransf": ("clip4clip_msrvtt", {"similarity": "tightTransf"}, 582.7),
    "TC-MGC": ("tc_mgc_msrvtt", {}, 673.1),
    "GHAN": ("ghan_msrvtt", {}, None),
    "LEAN": ("lean_msrvtt", {}, None),
    "SPTCH 64 bits": ("sptch_msrvtt", {}, None),
}
LONG_ENOUGH_S = 1.0  # of one call


def build(part: Any, words: int) -> Any:
    """What a configuration describes, with small encoders."""
    kind = class_of(part)
    if kind is None:
        return part
    given = part.get("init_args", {})
    if kind.__name__ in SMALL:
        given = {name: value for name, value in given.items() if name == "freeze"}
        if kind.__name__ != "VGGEncoder":
            given["context_length"] = words
        return kind(size=SMALL[kind.__name__], **given)
    settings = {name: build(value, words) for name, value in given.items()}
    settings.pop("optimizer", None)
    return kind(**settings)


def inputs(model: RetrievalModule[Any, Any], words: int, frames: int) -> tuple[TextInput, VideoInput]:
    """Captions and videos with every place filled."""
    index = torch.arange(DIFFERENT)
    tokens = torch.randint(1, 400, (DIFFERENT, words))
    tokens[:, -1] = 49407 if any(type(e).__name__ == "CLIPEncoder" for e in model.encoders) else 999
    word = (torch.arange(words) - 1).clamp(max=words - 3).expand(DIFFERENT, -1).clone()
    word[:, -1] = -1
    size = model.image_size
    pixels = torch.randint(0, 256, (DIFFERENT, frames, 3, size, size), dtype=torch.uint8)
    full = torch.ones(DIFFERENT, frames, dtype=torch.bool)
    return TextInput(tokens, torch.ones_like(tokens, dtype=torch.bool), index, index, word), VideoInput(
        pixels, full, index
    )


def repeated(rows: TensorRows, count: int) -> Any:
    """A number of rows, out of a few."""
    return rows[torch.arange(count, device=next(iter(rows.tensors().values())).device) % len(rows)]


def cost(score: Callable[[Any, Any], Tensor], texts: Any, videos: Any, device: str) -> dict[str, float]:
    """Of one video, among as many as take long enough to be timed."""

    def seconds(count: int) -> float:
        part, began = repeated(videos, count), time.perf_counter()
        score(texts, part)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    count = 1
    with torch.no_grad():
        while seconds(count) < LONG_ENOUGH_S and count < TEXTS:
            count = min(2 * count, TEXTS)
        best = min(seconds(count) for _ in range(2))
    return {"videos": count, "ms": float(f"{1e3 * best / count:.3g}")}


def gflops(score: Callable[[Any, Any], Tensor], texts: Any, videos: Any) -> float:
    """Of one video, on the CPU, whose products are the ones that are counted."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        score(texts, repeated(videos, 2))
    return float(f"{counter.get_total_flops() / 2e9:.3g}")


def rows_of(name: str, device: str) -> list[dict[str, Any]]:
    """The suite's form of a method, and the written-out one where there is another."""
    experiment, settings, paper = CASES[name]
    config = compose(EXPERIMENTS / f"{experiment}.yaml")
    words, frames = config["data"]["max_words"], config["data"]["num_frames"]
    config["model"]["init_args"] |= settings
    torch.manual_seed(0)
    model = build(config["model"], words).eval()
    text, video = inputs(model, words, frames)
    with torch.no_grad():
        texts, videos = repeated(model.encode_text(text), TEXTS), model.encode_video(video)
    shared = {"method": name, "words": words, "frames": frames, "device": device, "paper_ms": paper}
    count = gflops(model.score, texts, videos)
    model.to(device)
    found = cost(model.score, texts.to(device), videos.to(device), device)
    rows = [{**shared, "form": "ours", "gflops": count, **found}]
    scorer = OWN.get(experiment.removesuffix("_msrvtt"))
    if scorer is not None:
        case = Case("", TEXTS // 10, DIFFERENT, words, frames, WIDTH)  # a tenth of the captions: memory
        module, forms = scorer.forms(case, "cpu")
        literal = next(iter(forms.values()))
        captions, clips = scorer.features(case, "cpu")
        count = 10 * gflops(literal, captions, clips)
        module.to(device)
        found = cost(literal, captions.to(device), clips.to(device), device)
        rows.append({**shared, "form": "written out", "gflops": count, **found, "ms": 10 * found["ms"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, help="one method")
    parser.add_argument("--json", action="store_true", help="one object per row")
    add_device(parser)
    options = parser.parse_args()
    rows = [row for name in CASES if options.only in (None, name) for row in rows_of(name, options.device)]
    if options.json:
        for row in rows:
            print(json.dumps(row))
    else:
        table = Table(
            "method", "form", "GFLOP a video", "ms a video", "paper, ms", title=f"1,000 captions, {options.device}"
        )
        for row in rows:
            paper = "" if row["paper_ms"] is None or row["form"] != "ours" else f"{row['paper_ms']}"
            table.add_row(row["method"], row["form"], f"{row['gflops']:,g}", f"{row['ms']:,g}", paper)
        Console().print(table)
    if options.only is None:
        write_results("cost", "python benchmarks/cost.py", rows, options.device, captions=TEXTS)


if __name__ == "__main__":
    main()
