"""Pictures over several runs: what they draw, and what they say where there is nothing to draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores.files import write_json
from tvr_lightning.errors import NothingToDraw, RunError
from tvr_lightning.evaluation.code_files import Codes, load_codes, pack_codes, save_codes
from tvr_lightning.report.code_clouds import codes_by_class
from tvr_lightning.report.comparison import Comparison, compare
from tvr_lightning.report.grids import draw_grid, varied_settings
from tvr_lightning.report.plots import PLOTS, write_plot
from tvr_lightning.report.pr_curves import draw_pr_curves, read_pr_curve
from tvr_lightning.run.results import find_runs

from .finished_runs import make_run

FACTS = {
    "database": "train", "texts": 9, "videos": 9, "normalise": "relevant", "bits": 16, "queries_without_relevant": {}
}  # fmt: skip


def with_codes(folder: Path, seed: int = 0, labels: int = 3) -> Path:
    """Gives a made run curves, and codes of 30 videos of one class each."""
    curve = {"radius": [0.0, 1.0], "precision": [0.9, 0.3 + seed / 10], "recall": [0.2, 1.0], "retrieving": [0.5, 1.0]}
    write_json(folder / "pr_curve.json", {"t2v": curve, "v2t": curve})
    signs = np.random.default_rng(seed).choice([-1, 1], (30, 16))
    ids = np.asarray([f"v{i}" for i in range(30)])
    codes = Codes(pack_codes(signs), 16, ids, tuple((i % labels,) for i in range(30)))
    save_codes(folder / "codes.npz", {"video": codes})
    content = json.loads((folder / "metrics.json").read_text())
    metrics = {f"test/hash/{d}/mAP": 20.0 + seed for d in ("t2v", "v2t")}
    write_json(folder / "metrics.json", content | {"hashing": FACTS, "metrics": content["metrics"] | metrics})
    return folder


def shown(root: Path, metrics: Sequence[str] = ()) -> Comparison:
    return compare(find_runs([root]), metrics=metrics)


@pytest.mark.parametrize("name", [n for n in PLOTS if n != "grid"])
def test_each_picture_of_codes_is_drawn(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "tsne":
        pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")
    for seed in range(2):
        with_codes(make_run(tmp_path, f"m{seed}/a", 0), seed)
    assert main(["compare", str(tmp_path), "--runs_dir", str(tmp_path), "--plot", name]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / PLOTS[name].file)
    assert min(Image.open(tmp_path / PLOTS[name].file).size) > 300


def test_curves_of_runs_share_a_panel(tmp_path: Path) -> None:
    for seed in range(2):
        with_codes(make_run(tmp_path, f"m{seed}/a", 0), seed)
    figure = draw_pr_curves(shown(tmp_path))
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["m0/a, 16 bits", "m1/a, 16 bits"]
        assert axes.lines[1].get_ydata()[1] == pytest.approx(0.4)


@pytest.mark.parametrize("damage", ['{"t2v": {}}', "no json", '{"t2v": {"recall": [2], "precision": [1]}}'])
def test_a_damaged_curve_is_named(damage: str, tmp_path: Path) -> None:
    folder = with_codes(make_run(tmp_path, "m/a"))
    (folder / "pr_curve.json").write_text(damage)
    with pytest.raises(RunError, match=r"pr_curve\.json is damaged"):
        read_pr_curve(find_runs([tmp_path])[0])


def test_clouds_hold_items_with_one_label(tmp_path: Path) -> None:
    folder = with_codes(make_run(tmp_path, "m/a"))
    classes = codes_by_class(find_runs([tmp_path])[0])
    assert [len(x) for x in classes] == [10, 10, 10]
    kept = load_codes(folder / "codes.npz")["video"]
    several = tuple((0, 1) if i < 5 else own for i, own in enumerate(kept.labels))
    save_codes(folder / "codes.npz", {"video": Codes(kept.packed, kept.bits, kept.ids, several)})
    assert sum(map(len, codes_by_class(find_runs([tmp_path])[0]))) == 25


def grid(root: Path, points: dict[tuple[float, ...], float], names: Sequence[str]) -> None:
    for number, (values, m_ap) in enumerate(points.items()):
        folder = make_run(root, f"grid/p{number}", settings=dict(zip(names, values, strict=True)))
        content = json.loads((folder / "metrics.json").read_text())
        content["metrics"] |= {"test/hash/t2v/mAP": m_ap, "test/hash/v2t/mAP": m_ap / 2}
        write_json(folder / "metrics.json", content)


def test_a_line_over_one_setting_keeps_its_values_in_order(tmp_path: Path) -> None:
    grid(tmp_path, {(1.0,): 30.0, (0.01,): 10.0, (0.1,): 20.0}, ["weight"])
    comparison = shown(tmp_path)
    assert list(varied_settings([row.group for row in comparison.rows])) == ["model.weight"]
    left, right = draw_grid(comparison).axes
    assert list(left.lines[0].get_ydata()) == [10.0, 20.0, 30.0]
    assert [t.get_text() for t in left.get_xticklabels()] == ["0.01", "0.1", "1"]
    assert list(right.lines[0].get_ydata()) == [5.0, 10.0, 15.0]
    assert len(draw_grid(shown(tmp_path, ["t2v/R@1"])).axes) == 1


@pytest.mark.slow
def test_a_surface_over_two_settings_is_written(tmp_path: Path) -> None:
    grid(tmp_path, {(a, b): a + b for a in (0.1, 1.0) for b in (1.0, 5.0, 9.0)}, ["alpha", "beta"])
    path = write_plot("grid", shown(tmp_path), tmp_path)
    picture = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(picture, axis=0)) > 100  # bars in several colours


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bits", "no run has hashing"),
        ("pr", "no run has curves"),
        ("tsne", "no run has hashing"),
        ("grid", "one row differs in nothing"),
    ],
)
def test_runs_without_it_say_so(name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "m/a")
    assert main(["compare", str(tmp_path), "--runs_dir", str(tmp_path), "--plot", name]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / PLOTS[name].file).exists()


def test_a_grid_of_words_or_of_many_settings_is_refused(tmp_path: Path) -> None:
    for number, how in enumerate(["mean", "max"]):
        make_run(tmp_path, f"grid/p{number}", settings={"pool": how})
    with pytest.raises(NothingToDraw, match=r"differ in model\.pool"):
        draw_grid(shown(tmp_path))
    for number in range(3):
        make_run(tmp_path / "many", f"grid/q{number}", settings=dict.fromkeys("abc", number))
    with pytest.raises(NothingToDraw, match=r"model\.a, model\.b, model\.c"):
        draw_grid(shown(tmp_path / "many"))


def test_a_run_without_codes_says_how_to_make_them(tmp_path: Path) -> None:
    folder = with_codes(make_run(tmp_path, "m/a"))
    (folder / "codes.npz").unlink()
    with pytest.raises(NothingToDraw, match="tvr encode"):
        codes_by_class(find_runs([tmp_path])[0])


def test_the_page_shows_them(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")
    for bits in (16, 32):
        folder = with_codes(make_run(tmp_path, f"m_{bits}/a", settings={"code_length": bits}))
        content = json.loads((folder / "metrics.json").read_text())
        write_json(folder / "metrics.json", content | {"hashing": FACTS | {"bits": bits}})
    assert main(["dashboard", str(tmp_path), "--runs_dir", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("precision over recall, text → video") == 1
    for plot in (PLOTS["bits"], PLOTS["tsne"], PLOTS["grid"]):
        assert f"<figcaption>{plot.what}</figcaption>" in page


def test_a_name_is_no_formula_and_two_runs_of_one_name_are_two(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")
    for seed, place in enumerate(("one", "two")):
        with_codes(make_run(tmp_path / place, r"$\frac{1}{$/$x_{$"), seed)
    comparison = shown(tmp_path)
    for name in ("bits", "pr", "tsne"):
        assert write_plot(name, comparison, tmp_path / "new").stat().st_size > 5000
    labels = [line.get_label() for line in draw_pr_curves(comparison).axes[0].lines]
    assert len(set(labels)) == 2
    assert len(PLOTS["tsne"].draw(comparison).axes) == 2


def test_codes_that_are_all_the_same_are_no_picture(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")
    folder = with_codes(make_run(tmp_path, "m/a"))
    kept = load_codes(folder / "codes.npz")["video"]
    save_codes(folder / "codes.npz", {"video": Codes(kept.packed[[0] * 30], 16, kept.ids, kept.labels)})
    with pytest.raises(NothingToDraw, match="are the same"):
        write_plot("tsne", shown(tmp_path), tmp_path)


def test_codes_of_two_lengths_are_named(tmp_path: Path) -> None:
    folder = with_codes(make_run(tmp_path, "m/a"))
    kept = load_codes(folder / "codes.npz")["video"]
    text = Codes(pack_codes(np.ones((30, 8))), 8, kept.ids, kept.labels)
    save_codes(folder / "codes.npz", {"video": kept, "text": text})
    with pytest.raises(RunError, match=r"codes\.npz holds codes of \[8, 16\] bits"):
        codes_by_class(find_runs([tmp_path])[0])


def test_a_long_name_leaves_room_for_the_picture(tmp_path: Path) -> None:
    with_codes(make_run(tmp_path, f"m/{'x' * 200}"))
    figure = draw_pr_curves(shown(tmp_path))
    figure.canvas.draw()
    assert all(axes.get_window_extent().width > 300 for axes in figure.axes)


def test_no_point_of_either_direction_is_cut_off(tmp_path: Path) -> None:
    folder = with_codes(make_run(tmp_path, "m/a"))
    content = json.loads((folder / "metrics.json").read_text())
    content["metrics"]["test/hash/v2t/mAP"] = 90.0
    write_json(folder / "metrics.json", content)
    curves = json.loads((folder / "pr_curve.json").read_text())
    curves["t2v"] |= {"precision": [0.2, 0.1]}
    write_json(folder / "pr_curve.json", curves)
    for name, highest in (("bits", 90.0), ("pr", 0.9)):
        for axes in PLOTS[name].draw(shown(tmp_path)).axes:
            assert axes.get_ylim()[1] > highest * 1.01
