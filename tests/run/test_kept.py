"""A checkpoint says what its encoders compute: loading a run needs no other file, and nothing computes otherwise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from open_clip.model import CLIP

from tvr_lightning import load_experiment, load_run
from tvr_lightning.commands.main import main
from tvr_lightning.data.stores.hub import FetchPostponedError, before_fetching
from tvr_lightning.encoders import clip, clip_config, clip_weights
from tvr_lightning.encoders.kept import keep_encoders
from tvr_lightning.encoders.of_runs import UNSAID
from tvr_lightning.errors import CheckpointError, TVRError
from tvr_lightning.run.results import Run

from ..kinds import first_fast
from ..small_runs import run_arguments

QUICK = "--model.encoder.quick_gelu"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAI's kind of file: 24 positions, float32, nothing about its activation."""
    torch.manual_seed(7)
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 40, "width": 32, "heads": 2, "layers": 1}
    file = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(CLIP(32, vision, text, quick_gelu=True).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def run(shapes_root: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that began with such weights, which are gone now."""
    runs = tmp_path_factory.mktemp("runs")
    words = run_arguments(
        shapes_root, runs, "--run_id=a", f"--model.encoder.from_pretrained={weights}", f"{QUICK}=true"
    )
    assert main(["fit", *words]) == 0
    weights.rename(weights.with_name("gone.pt"))
    return runs / "clip4clip_shapes" / "a"


def reported(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "metrics.json").read_text())
    return content


def test_results_name_what_was_built(run: Path) -> None:
    found = reported(run)
    assert found["encoder"] == "CLIPSize-quickgelu"
    kept = found["encoders"]["encoder"]  # type: ignore[index]
    assert kept["computation"]["quick_gelu"] is True
    assert kept["computation"]["config"]["text_cfg"]["context_length"] == 40
    assert kept["computation"]["mean"][0] == pytest.approx(0.48145466)
    assert found["trained"]["dataset"] == "shapes"  # type: ignore[index]
    assert found["trained"]["protocol"] == found["split"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("command", "change"),
    first_fast(
        [
            ("test", ["--model.encoder.from_pretrained=null", f"{QUICK}=null"]),
            ("test", []),
            ("predict", ["--model.encoder.from_pretrained=null"]),
            ("validate", []),
        ]
    ),
)
def test_commands_need_nothing_but_the_checkpoint(
    run: Path, tmp_path: Path, command: str, change: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        pytest.fail("pretrained weights were read")

    monkeypatch.setattr(clip, "resolve_weights", read)
    words = [command, "--config", str(run / "config.yaml"), f"--ckpt_path={run}", f"--runs_dir={tmp_path}"]
    assert main([*words, "--run_id=t", *change]) == 0
    if command == "test":
        again = reported(tmp_path / "clip4clip_shapes" / "t")
        assert again["metrics"] == reported(run)["metrics"]
        assert again["encoder"] == "CLIPSize-quickgelu"


def test_a_run_is_loaded_and_trained_on_without_its_weights(run: Path, tmp_path: Path) -> None:
    encoder = load_run(run).model.encoders[0]
    assert encoder.pretrained
    assert encoder.computation["quick_gelu"] is True
    assert keep_encoders(load_run(run).model)["encoder"] == reported(run)["encoders"]["encoder"]  # type: ignore[index]
    words = ["fit", "--config", str(run / "config.yaml"), f"--ckpt_path={run}", f"--runs_dir={tmp_path}", "--run_id=b"]
    assert main([*words, "--trainer.max_epochs=3"]) == 0


@pytest.mark.slow
def test_captions_may_be_longer_than_in_training(run: Path, tmp_path: Path) -> None:
    words = ["test", "--config", str(run / "config.yaml"), f"--ckpt_path={run}", f"--runs_dir={tmp_path}"]
    assert main([*words, "--run_id=t", "--data.max_words=40"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            f"{QUICK}=false",
            "builds CLIPEncoder(.*quick_gelu=False.*), the checkpoint holds CLIPEncoder(.*quick_gelu=True",
        ),
        ("--model.encoder.image_size=48", "image_size=48.*the checkpoint holds .*image_size=32"),
        ("--model.encoder.size.text_layers=2", "'text_layers': 2.*the checkpoint holds .*'text_layers': 1"),
        ("--data.max_words=41", "exceeds the 40 text positions"),
    ],
)
def test_another_encoder_is_refused_by_both_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    words = ["test", "--config", str(run / "config.yaml"), f"--ckpt_path={run}", f"--runs_dir={tmp_path}"]
    assert main([*words, change]) != 0
    said = capsys.readouterr().err
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), said), said


def test_a_model_with_another_activation_is_refused(run: Path) -> None:
    exp = load_experiment(run / "config.yaml", ["model.encoder.from_pretrained=null", "model.encoder.quick_gelu=null"])
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    with pytest.raises(CheckpointError, match=r"encoder: .*quick_gelu is True in the checkpoint, False here"):
        exp.model.on_load_checkpoint(content)
    content["encoders"]["encoder"]["class"] = "other.Encoder"
    with pytest.raises(CheckpointError, match=r"encoder is other\.Encoder there"):
        exp.model.on_load_checkpoint(content)
    del content["encoders"]["encoder"]
    with pytest.raises(CheckpointError, match="encoder: not in the checkpoint"):
        exp.model.on_load_checkpoint(content)


@pytest.mark.parametrize("content", [None, [], {"encoder": {}}, {"encoder": 3}])
def test_a_checkpoint_that_does_not_say_is_refused(run: Path, tmp_path: Path, content: object) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["encoders"] = content
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(CheckpointError, match="does not say what its encoders compute"):
        load_run(tmp_path)
    assert "earlier version" in UNSAID


FORGED = {
    "code of a text tower": {"text_config": {"model_type": "zzz", "auto_map": {"AutoConfig": "evil--m.C"}}},
    "a repository to fetch": {"config.text_cfg.hf_model_name": "evil/repo"},
    "a kernel to fetch": {"text_config": {"model_type": "zzz", "_attn_implementation": "kernels-community/x"}},
    "no statistics": {"mean": None},
    "a division by zero": {"std": [0, 0, 0]},
    "too many numbers": {"mean": [0.5] * 300_000},
    "no configuration": {"config": None},
    "no tower": {"config.text_cfg": None},
    "no width": {"config.embed_dim": 0},
    "no layers": {"config.vision_cfg.layers": []},
    "no patch": {"config.vision_cfg.patch_size": 0},
    "a scale beyond all": {"config.init_logit_scale": 1e9},
    "unknown frames": {"resize": "__evil__"},
    "huge frames": {"native_image_size": 10**9},
    "a word for a number": {"config.text_cfg.context_length": "x"},
    "a number for a name": {5: 1},
    "several lines": {"model": "a\nb"},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_forged_description_is_refused_in_one_line(
    run: Path, tmp_path: Path, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("a checkpoint reached for the network"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in change.items():
        part = content["encoders"]["encoder"]["computation"]
        *path, last = name.split(".") if isinstance(name, str) else [name]
        for step in path:
            part = part[step]
        part[last] = value
    for file in run.glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(TVRError) as refused:
        load_run(tmp_path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1500


def test_a_text_tower_s_configuration_loads_no_code() -> None:
    """Wherever it comes from: what is built is filtered, not what is read."""
    harmless = {"model_type": "bert", "hidden_size": 32}
    risky = {"auto_map": {"AutoConfig": "x--m.C"}, "_attn_implementation": "y", "attn_implementation": "y"}
    assert clip_config._plain_tower(harmless | risky, "here") == harmless


def test_results_say_what_other_data_weights_were_trained_on(run: Path) -> None:
    content = reported(run)
    assert Run(run, content).marks == []
    other = {**content, "trained": {**content["trained"], "protocol": "full"}}  # type: ignore[dict-item]
    assert Run(run, other).marks == ["trained on shapes full"]
    assert yaml.safe_load((run / "config.yaml").read_text())["experiment"] == "clip4clip_shapes"


@pytest.mark.slow
def test_nothing_is_fetched_for_a_tag_either(
    shapes_root: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run from a tag, whose download works once."""
    import open_clip

    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    record = {"url": "https://example.org/clip.pt", "mean": (0.5,) * 3, "std": (0.5,) * 3, "quick_gelu": True}
    torch.manual_seed(7)
    file = tmp_path / "file.pt"
    torch.save(CLIP(**config, quick_gelu=True).state_dict(), file)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {"openai": record})
    monkeypatch.setattr(clip_weights, "_download", lambda *_: file)
    words = [w for w in run_arguments(shapes_root, tmp_path) if not w.startswith("--model.encoder.size")]
    words += ["--model.encoder.model=small", "--model.encoder.from_pretrained=openai", "--run_id=a"]
    assert main(["fit", *words]) == 0
    run = tmp_path / "clip4clip_shapes" / "a"
    assert reported(run)["encoder"] == "small-quickgelu"

    def download(*_: object) -> Path:
        before_fetching("weights")
        raise FetchPostponedError("something was fetched")

    monkeypatch.setattr(clip_weights, "_download", download)
    for more in ([], ["--model.encoder.from_pretrained=null"]):
        words = ["test", "--config", str(run / "config.yaml"), f"--ckpt_path={run}", f"--runs_dir={tmp_path}"]
        assert main([*words, f"--run_id=t{len(more)}", *more]) == 0
        again = reported(tmp_path / "clip4clip_shapes" / f"t{len(more)}")
        assert again["metrics"] == reported(run)["metrics"]
        kept = again["encoders"]["encoder"]["computation"]  # type: ignore[index]
        assert kept["mean"] == [0.5] * 3
