"""Small annotation files of every dataset, in the format of the real ones."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvr_lightning.data.annotations.activitynet import ActivityNet
from tvr_lightning.data.annotations.charades import Charades
from tvr_lightning.data.annotations.didemo import DiDeMo
from tvr_lightning.data.annotations.msvd import MSVD
from tvr_lightning.data.annotations.vatex import VATEX

READERS = {"msvd": MSVD, "didemo": DiDeMo, "vatex": VATEX, "activitynet": ActivityNet, "charades": Charades}
CHARADES_COLUMNS = [
    *("id", "subject", "scene", "quality", "relevance", "verified"),
    *("script", "objects", "descriptions", "actions", "length"),
]


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, lines: Sequence[str], end: str = "\n") -> None:
    path.write_bytes(("\n".join(lines) + end).encode())


MSVD_IDS = {
    "train": ["-4wsuPCjDBc_5_15", "_x1y2z3_0_9", "mv89psg6zh4_33_46"],
    "val": ["bQJQGoJF7_k_162_169"],
    "test": ["eyhzdC936uk_15_27", "f-24IxG9ijw_25_40"],
}


def msvd_tokens(video: str) -> list[list[str]]:
    return [["a", "man", "in", video], ["it", "s", "raining"]]


def write_msvd(root: Path) -> None:
    for split, ids in MSVD_IDS.items():
        write_lines(root / f"{split}_list.txt", ids, end="\n" if split == "test" else "")
    table = {i: msvd_tokens(i) for ids in MSVD_IDS.values() for i in ids}
    (root / "raw-captions.pkl").write_bytes(pickle.dumps(table, protocol=3))


def didemo(video: str, description: str, number: int = 1) -> dict[str, Any]:
    return {
        "num_segments": 6,
        "description": description,
        "dl_link": "https://example.org/1",
        "times": [[0, 0], [1, 2]],
        "video": video,
        "annotation_id": number,
    }


DIDEMO = {
    "train": [("1@N00_1_a.mov", "first"), ("2@N01_2_b.", " a  dog "), ("1@N00_1_a.mov", "runs\naway"),
              ("1@N00_1_a.mp4", "last."), ("3@N02_3_c.3gp", "a cat")],
    "val": [("4@N00_4_d.avi", "a bird")],
    "test": [("5@N00_5_e.MPG", "a fish"), ("6@N00_6_f.m4v", "a cow")],
}  # fmt: skip


def write_didemo(root: Path) -> None:
    for split, entries in DIDEMO.items():
        write_json(root / f"{split}_data.json", [didemo(v, d, n) for n, (v, d) in enumerate(entries)])


VATEX_IDS = {
    "train": ["Ptf_2VRj-V0_000122_000132", "-6dz6tBH77I_000118_000128"],
    "val": ["_aFRmuxa1Tc_000000_000010"],
    "test": ["sf2PPeXQrUA_000000_000010", "rIJPGdtdaHg_000006_000016"],
}


def vatex(video: str) -> dict[str, Any]:
    return {
        "videoID": video,
        "enCap": [f" english {k}  of {video}" for k in range(10)],
        "chCap": [f"中文 {k} {video}" for k in range(10)],
    }


def write_vatex(root: Path) -> None:
    for split, ids in VATEX_IDS.items():
        write_lines(root / f"{split}_list.txt", ids)
    write_json(root / "vatex_training_v1.0.json", [vatex(i) for i in VATEX_IDS["train"]])
    write_json(root / "vatex_validation_v1.0.json", [vatex(i) for i in VATEX_IDS["test"] + VATEX_IDS["val"]])


def activitynet(timestamps: Sequence[Sequence[float]], sentences: Sequence[str]) -> dict[str, Any]:
    return {"duration": 82.73, "timestamps": timestamps, "sentences": sentences}


ACTIVITYNET = {
    "train": {
        "v_QOlSCBRmfWY": activitynet([[17.37, 60], [0, 19.86], [17.37, 20]], ["Second.", " First.", " Third\nnow. "]),
        "v_ehGHCYKzyZ8": activitynet([[61.29, 60.71], [61, 99.5]], ["Reversed.", " After."]),
        "v_-nwznKOuZM0": activitynet([[0, 31.65]], ["Alone."]),
    },
    "val_1": {"v_uqiMw7tQ1Cc": activitynet([[0, 4]], ["A tutorial."]), "v_bXdq2zI1Ms0": activitynet([[0, 4]], ["B."])},
    "val_2": {"v_uqiMw7tQ1Cc": activitynet([[1, 3]], ["Other words."])},
}


def write_activitynet(root: Path) -> None:
    for name, content in ACTIVITYNET.items():
        write_json(root / f"{name}.json", content)


def charades(
    video: str, script: str = "They act.", descriptions: str = "A person acts.", actions: str = "c001 0.00 12.60"
) -> dict[str, str]:
    row = [video, "HR43", "Kitchen", "6", "7", "Yes", script, "cup;sink", descriptions, actions, "24.83"]
    return dict(zip(CHARADES_COLUMNS, row, strict=True))


CHARADES = {
    "train": [
        charades(
            "46GP8", "A man, sitting.", "A person  opens a door.;They leave. ;", "c092 11.90 21.20;c147 0.00 12.60"
        ),
        charades("N11GT", 'He says "no".\r\nThen leaves.', "One.;Two", "c001 1.00 2.00;c000 0 99.5;c001 3.00 4.00"),
        charades("0IH69", actions=""),
    ],
    "test": [charades("YSKX3"), charades("001YG")],
}
CHARADES_CLASSES = ["c000 Holding some clothes", "c001 Putting clothes somewhere", "c092 Watching", "c147 Standing up"]


def write_charades(root: Path, rows: Mapping[str, Sequence[dict[str, str]]] = CHARADES) -> None:
    for split, entries in rows.items():
        with (root / f"Charades_v1_{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CHARADES_COLUMNS, lineterminator="\r\n")
            writer.writeheader()
            writer.writerows(entries)
    write_lines(root / "Charades_v1_classes.txt", CHARADES_CLASSES)


WRITERS = {
    "msvd": write_msvd,
    "didemo": write_didemo,
    "vatex": write_vatex,
    "activitynet": write_activitynet,
    "charades": write_charades,
}
