"""The deep hashing baselines: each matrix and each loss against sums that are written out, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.agch import AGCH
from tvr_lightning.methods.cirh import CIRH
from tvr_lightning.methods.cmfh import CMFH
from tvr_lightning.methods.dbrc import DBRC
from tvr_lightning.methods.djsrh import DJSRH
from tvr_lightning.methods.jdsh import JDSH, SAMPLE
from tvr_lightning.methods.stmh import STMH
from tvr_lightning.nn.hashing.correlation_graph import CorrelationGraph, mixed_with_neighbours
from tvr_lightning.nn.hashing.joint_similarity import (
    agch_similarity,
    bounds_of,
    djsrh_similarity,
    jdsh_similarity,
    weighted_by_distribution,
)

from .hashing_cases import BITS, build, codes_of, cosine, cosines, features_of, mean_square

CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
ITEMS = 7


def losses(model: Any, video: Tensor, text: Tensor) -> dict[str, float]:
    texts, videos = codes_of(model, video, text)
    return {k: float(v.detach()) for k, v in model.compute_losses(texts, videos, torch.arange(len(video))).items()}


def spread(x: Tensor) -> Tensor:
    return 2 * cosines(x, x) - 1


def test_djsrh() -> None:
    video, text = features_of(ITEMS)
    joint = 0.9 * spread(video) + 0.1 * spread(text)
    wanted = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    for i in range(ITEMS):
        for j in range(ITEMS):
            second = sum(float(joint[i, k] * joint[j, k]) for k in range(ITEMS)) / ITEMS
            wanted[i, j] = 1.5 * (0.6 * joint[i, j] + 0.4 * second)
    torch.testing.assert_close(djsrh_similarity(video, text, 0.9, 0.4, 1.5), wanted, **CLOSE)
    model = build(DJSRH, hidden_width=9)
    z_text, z_video = (x.real.detach() for x in codes_of(model, video, text))
    h_text, h_video = z_text.tanh(), z_video.tanh()
    assert losses(model, video, text) == pytest.approx(
        {
            "inter_modal": mean_square(cosines(h_video, h_text), wanted),
            "video": 0.1 * mean_square(cosines(h_video, h_video), wanted),
            "text": 0.1 * mean_square(cosines(h_text, h_text), wanted),
        },
        rel=1e-10,
    )
    assert model.rates == {"hash_video": 1e-3}


@pytest.mark.parametrize("kind", [DJSRH, JDSH])
def test_codes_are_steeper_with_every_epoch(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    video, text = features_of(ITEMS)
    model = build(kind, hidden_width=9)
    monkeypatch.setattr(kind, "current_epoch", 3)
    steep = losses(model, video, text)
    monkeypatch.undo()
    with torch.no_grad():
        for hash_function in (model.hash_video, model.hash_text):
            hash_function.project.weight.mul_(2)  # sqrt(3 + 1)
            hash_function.project.bias.mul_(2)
    assert losses(model, video, text) == pytest.approx(steep, rel=1e-10)


def jdsh_by_hand(video: Tensor, text: Tensor) -> Tensor:
    of_video, of_text = spread(video), spread(text)
    wanted = torch.zeros(len(video), len(video), dtype=torch.float64)
    for i in range(len(video)):
        for j in range(len(video)):
            high = (cosine(of_video[i], of_text[j]) + cosine(of_video[j], of_text[i])) / 2
            wanted[i, j] = 0.5 * of_video[i, j] + 0.1 * of_text[i, j] + 0.4 * high
    return wanted


def weighted_by_hand(plain: Tensor, left: float, right: float, smallest: float, largest: float) -> Tensor:
    wanted = plain.clone()
    for i in range(len(plain)):
        for j in range(len(plain)):
            s = float(plain[i, j])
            if s < left:
                wanted[i, j] = s * (1 + 0.1 * math.exp(smallest - s))
            elif s > right:
                wanted[i, j] = s * (1 + 0.2 * math.exp(s - largest))
    return wanted


def test_jdsh_with_given_bounds() -> None:
    video, text = features_of(ITEMS)
    plain = jdsh_by_hand(video, text)
    torch.testing.assert_close(jdsh_similarity(video, text, (0.5, 0.1, 0.4)), plain, **CLOSE)
    # MIRFlickr's, as the released code has them, but further apart: these features are alike
    left, right = (float(plain.quantile(share)) + 1e-6 for share in (0.3, 0.7))  # no entry lies on them by rounding
    bounds = (left, right, float(plain.min()), float(plain.max()))
    wanted = 1.4 * weighted_by_hand(plain, *bounds)
    assert not torch.allclose(wanted, 1.4 * plain)
    names = ("left", "right", "smallest", "largest")
    model = build(JDSH, hidden_width=9, **dict(zip(names, bounds, strict=True)))
    torch.testing.assert_close(model.similarity(video, text), wanted, **CLOSE)
    h_text, h_video = (x.real.detach().tanh() for x in codes_of(model, video, text))
    own = sum(cosine(v, t) for v, t in zip(h_video, h_text, strict=True)) / ITEMS
    assert losses(model, video, text) == pytest.approx(
        {
            "inter_modal": 2 * mean_square(cosines(h_video, h_text), wanted),
            "agreement": -own,
            "video": 0.1 * mean_square(cosines(h_video, h_video), wanted),
            "text": 0.1 * mean_square(cosines(h_text, h_text), wanted),
        },
        rel=1e-10,
    )


def test_jdsh_estimates_its_bounds_once_from_batches_of_the_training_set() -> None:
    video, text = features_of(2 * SAMPLE + 1)  # the last item is not a pair
    model = build(JDSH, hidden_width=9)
    model.learn_from(video, text)
    order = torch.randperm(len(video), generator=torch.Generator().manual_seed(0)).tolist()
    pairs: list[float] = []
    for rows in (order[:SAMPLE], order[SAMPLE : 2 * SAMPLE]):
        plain = jdsh_by_hand(video[rows], text[rows])
        pairs += [float(plain[i, j]) for i in range(SAMPLE) for j in range(SAMPLE) if i != j]
    pairs.sort()
    middle = pairs[(len(pairs) - 1) // 2]
    below, above = [p for p in pairs if p < middle], [p for p in pairs if p > middle]
    left = middle - 2 * sum(middle - p for p in below) / len(below)
    right = middle + 4 * sum(p - middle for p in above) / len(above)
    wanted = torch.tensor([left, right, pairs[0], pairs[-1]], dtype=torch.float64)
    torch.testing.assert_close(model.bounds, wanted, **CLOSE)
    batch = features_of(ITEMS, seed=8)
    plain = jdsh_by_hand(*batch)
    torch.testing.assert_close(model.similarity(*batch), 1.4 * weighted_by_hand(plain, *wanted.tolist()), **CLOSE)
    assert "bounds" in model.state_dict()


def test_bounds_of_equal_similarities_weigh_nothing() -> None:
    same = torch.full((5,), 0.25, dtype=torch.float64)
    bounds = bounds_of(same, 2.0, 4.0)
    assert {float(x) for x in bounds} == {0.25}
    assert torch.equal(weighted_by_distribution(same, bounds, 0.1, 0.2), same)


def test_agch() -> None:
    video, text = features_of(ITEMS)
    wanted = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    for x, share in ((video, 0.978), (text, 0.022)):
        unit = x / x.norm(dim=1, keepdim=True)
        for i in range(ITEMS):
            for j in range(ITEMS):
                # two ways to one distance differ by the root of the last digit at 0
                far = float((unit[i] - unit[j]).norm()) if i != j else 0.0
                wanted[i, j] += share * cosine(x[i], x[j]) * math.exp(-far / 4.0)
    wanted = 2 * wanted - 1
    found = agch_similarity(video, text, (0.978, 0.022), 4.0)
    other = ~torch.eye(ITEMS, dtype=torch.bool)
    torch.testing.assert_close(found[other], wanted[other], **CLOSE)
    torch.testing.assert_close(found.diagonal(), torch.ones(ITEMS).double(), rtol=0, atol=1e-7)
    model = build(AGCH, hidden_width=9, graph_widths=(8, 6))
    degree = found.abs().sum(1)
    spread_over = torch.stack(
        [torch.stack([found[i, j] / (degree[i] * degree[j]).sqrt() for j in range(ITEMS)]) for i in range(ITEMS)]
    )
    h = torch.cat([video / video.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)], 1)
    for layer in (model.convolve_first, model.convolve_second):
        h = (spread_over @ h @ layer.linear.weight.T).clamp(min=0)
    joint = (h @ model.to_code.weight.T + model.to_code.bias).tanh().detach()
    signs = torch.where(joint >= 0, 1.0, -1.0).double()
    h_text, h_video = (x.real.detach().tanh() for x in codes_of(model, video, text))
    assert losses(model, video, text) == pytest.approx(
        {
            "inter_modal": mean_square(cosines(h_video, h_text), found),
            "video": mean_square(cosines(h_video, h_video), found),
            "text": mean_square(cosines(h_text, h_text), found),
            "joint": mean_square(cosines(joint, joint), found),
            "quantisation": mean_square(signs, joint),
            "code": mean_square(h_video, signs) + mean_square(h_text, signs),
        },
        rel=1e-10,
    )


def correlation_by_hand(video: Tensor, text: Tensor, dropped: float) -> Tensor:
    items = len(video)
    # cosines are rounded to float32 once, so that an entry is the same in every block
    first = (0.6 * cosines(video, video) + 0.4 * cosines(text, text)).float().double()
    for row in first:
        for j in sorted(range(items), key=lambda j: (float(row[j]), j))[: round(dropped * items)]:
            row[j] = 0.0
    wanted = torch.zeros(items, items, dtype=torch.float64)

    def second(i: int, j: int) -> float:
        return 2 / (1 + math.exp(-float(first[i, j]))) - 1 + (i == j)

    for i in range(items):
        for j in range(items):
            wanted[i, j] = 0.6 * first[i, j] + 0.4 * (second(i, j) + second(j, i)) / 2
    return wanted


@pytest.mark.parametrize("dropped", [0.0, 0.3, 0.6])
def test_cirh_s_graph(dropped: float) -> None:
    video, text = features_of(20)
    wanted = correlation_by_hand(video, text, dropped)
    graph = CorrelationGraph(video, text, 0.6, dropped, 0.6)
    torch.testing.assert_close(graph.block(torch.arange(20)), wanted, rtol=0, atol=1e-6)
    rows = torch.tensor([4, 19, 4, 0, 11])
    torch.testing.assert_close(graph.block(rows), graph.block(torch.arange(20))[rows][:, rows], **CLOSE)


def test_cirh() -> None:
    video, text = features_of(20)
    model = build(CIRH, hidden_width=9, graph_width=10, dropout=0.0)
    unit_video, unit_text = F.normalize(video, dim=1), F.normalize(text, dim=1)
    graph, rows = model.graph_of(video, text), torch.tensor([3, 17, 8, 0, 12, 5])
    similarity = graph.block(rows)
    mixed = []
    for x in (unit_video[rows], unit_text[rows]):
        out = torch.zeros_like(x)
        for i in range(len(rows)):
            others = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -float(similarity[i, j]))
            out[i] = 0.7 * x[i] + 0.2 * x[others[0]] + 0.1 * x[others[1]]
        mixed.append(out)
    torch.testing.assert_close(mixed_with_neighbours(unit_video[rows], similarity, (0.7, 0.2, 0.1)), mixed[0], **CLOSE)
    model.eval()
    with torch.no_grad():
        h = model.graph_network(*mixed, similarity)
        texts, videos = codes_of(model, video[rows], text[rows])
        found = {
            **model.graph_losses(graph, rows),
            **model.hash_losses(graph, rows, texts, videos, torch.arange(len(rows))),
        }
    signs = torch.where(h.relaxed >= 0, 1.0, -1.0).double()
    f_video, f_text = videos.real.tanh(), texts.real.tanh()
    repeated = [mean_square(cosines(x, x), similarity) for x in (h.video, h.text, h.relaxed)]
    kept = [
        mean_square(cosines(a, b), similarity) for a, b in ((f_video, f_text), (f_video, f_video), (f_text, f_text))
    ]
    wanted = {
        "reconstruction": 10 * (mean_square(h.video_features, mixed[0]) + mean_square(h.text_features, mixed[1])),
        "neighbourhood": sum(repeated),
        "quantisation": mean_square(h.relaxed, signs),
        "code": mean_square(f_video, signs) + mean_square(f_text, signs),
        "inter_modal": mean_square(f_video, f_text),
        "similarity": 0.01 * sum(kept),
    }
    assert {k: float(v) for k, v in found.items()} == pytest.approx(wanted, rel=1e-10)


def test_dbrc() -> None:
    video, text = features_of(ITEMS)
    model = build(DBRC, hidden_width=9)
    with torch.no_grad():
        model.activation.log_scale.fill_(0.4)
    model.learn_from(*features_of(30, seed=9))
    standard = []
    for x, known in zip((video, text), features_of(30, seed=9), strict=True):
        mean = torch.stack([column.sum() / 30 for column in known.T])
        square = torch.stack([(column - m).square().sum() / 30 for column, m in zip(known.T, mean, strict=True)])
        standard.append((x - mean) / square.sqrt().clamp(min=1e-6))

    def layers(x: Tensor, first: Any, second: Any) -> Tensor:
        out: Tensor = (x @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
        return out

    z = [
        layers(x, encoder.hidden[0], encoder.project)
        for x, encoder in zip(standard, (model.encode_features_of_video, model.encode_features_of_text), strict=True)
    ]
    wanted = {"scale": 0.001 * math.exp(0.4) ** -2}
    for name, code in {"joint": z[0] + z[1], "video": z[0], "text": z[1]}.items():
        squeezed = (math.exp(0.4) * code).tanh()
        rebuilt = [layers(squeezed, d.layers[0], d.layers[2]).detach() for d in (model.decode_video, model.decode_text)]
        wanted[name] = mean_square(rebuilt[0], standard[0]) + mean_square(rebuilt[1], standard[1])
    assert losses(model, video, text) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("kind", [DJSRH, JDSH, AGCH, CIRH, DBRC, CMFH, STMH])
def test_codes_have_their_length(kind: Any) -> None:
    model, (video, text) = build(kind), features_of(3)
    assert all(x.codes.shape == (3, BITS) for x in codes_of(model, video, text))
    assert model.runs_apart_by == "code_length"
    with pytest.raises(ConfigError, match="code_length is 0; it must be at least 1 bit"):
        build(kind, code_length=0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DJSRH, {"video_share": 1.5}, "video_share is 1.5; it must be between 0 and 1"),
        (JDSH, {"shares": (0.5, 0.5)}, "model.shares is .*three numbers"),
        (AGCH, {"radius": 0.0}, "radius is 0.0; distances are divided by it"),
        (AGCH, {"shares": (0.5, -0.5)}, "model.shares is .*two numbers"),
        (CIRH, {"mixture": -1.0}, "mixture is -1.0; it must be between 0 and 1"),
        (CIRH, {"mixing": (1.0,)}, "model.mixing is .*three shares"),
        (DBRC, {"scale_weight": -1.0}, "scale_weight is -1.0"),
        (CMFH, {"norm_weight": 0.0}, r"model\.norm_weight is 0.0; it must be above 0"),
        (CMFH, {"rounds": 0}, "rounds is 0; it must be at least 1"),
        (STMH, {"agreement_weight": 0.0}, r"model\.agreement_weight is 0.0; it must be above 0"),
        (STMH, {"code_length": 1}, "code_length 1; at least 1 and 2"),
    ],
)
def test_bad_settings(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(kind, **settings)
