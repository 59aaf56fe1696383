"""Hash functions and the graph network, the latter against its equations written out item by item."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.nn.draws import joined_rows
from tvr_lightning.nn.sptch.hashing import (
    Aggregation,
    GraphNetwork,
    HashLayer,
    TransformerLayer,
    VideoHash,
    binary,
    propagation,
)

BITS = 6


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def video_hash(**settings: Any) -> VideoHash:
    torch.manual_seed(0)
    return VideoHash(10, BITS, width=16, num_layers=2, max_frames=5, **settings).double().eval()


def test_sign_of_zero_is_plus_one() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-20], requires_grad=True)
    assert binary(x).tolist() == [-1, 1, 1, 1]
    assert binary(x).dtype == x.dtype
    assert not binary(x).requires_grad


def test_hash_layer_is_the_mean_of_linear_outputs() -> None:
    layer = HashLayer(4, BITS).double()
    x, mask = draw(3, 5, 4), torch.arange(5) < torch.tensor([[5], [2], [0]])
    out = layer(x, mask)
    for row, length in enumerate((5, 2)):
        expected = sum(layer.project.weight @ x[row, i] + layer.project.bias for i in range(length)) / length
        torch.testing.assert_close(out[row], expected)
    assert out[2].abs().max() == 0


@pytest.mark.parametrize("heads", [1, 4])
def test_a_layer_is_that_of_torch(heads: int) -> None:
    """Names, initial weights, outputs and gradients."""
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, heads, 64, 0.0, activation="gelu", batch_first=True)
    torch.manual_seed(0)
    ours = TransformerLayer(16, heads, 64)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(x, theirs.state_dict()[n]) for n, x in ours.state_dict().items())
    ours, theirs = ours.double(), theirs.double()
    x, mask = draw(4, 5, 16).requires_grad_(), torch.arange(5) < torch.tensor([[5], [3], [1], [5]])
    outputs = [ours(x, mask), theirs(x, src_key_padding_mask=~mask)]
    gradients = [torch.autograd.grad(y.square()[mask].sum(), (x, *m.parameters()))
                 for y, m in zip(outputs, (ours, theirs), strict=True)]  # fmt: skip
    torch.testing.assert_close(outputs[0][mask], outputs[1][mask])
    names = dict(zip(["x", *dict(ours.named_parameters())], gradients[0], strict=True))
    expected = dict(zip(["x", *dict(theirs.named_parameters())], gradients[1], strict=True))
    for name, gradient in names.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@pytest.mark.parametrize("first", [3, 4])
def test_dropout_of_videos_is_cut_from_that_of_the_joined_batch(first: int) -> None:
    torch.manual_seed(0)
    model = VideoHash(10, BITS, width=16, num_layers=2, heads=2, max_frames=5, dropout=0.3).double()
    frames, mask = draw(8, 5, 10), torch.arange(5) < torch.tensor([[5], [3], [1], [5], [2], [5], [4], [5]])
    with joined_rows(0, 8, 1):
        whole = model(frames, mask)
    parts = []
    for start, end in ((0, first), (first, 8)):
        with joined_rows(start, 8, 1):
            parts.append(model(frames[start:end], mask[start:end]))
    torch.testing.assert_close(torch.cat(parts), whole)
    with joined_rows(0, 8, 2):
        assert not torch.allclose(model(frames, mask), whole)


def test_video_hash_looks_at_valid_frames_only() -> None:
    model = video_hash()
    frames, mask = draw(4, 5, 10), torch.arange(5) < torch.tensor([[5], [3], [1], [0]])
    with torch.no_grad():
        plain = model(frames, mask)
        noisy = torch.where(mask[..., None], frames, draw(4, 5, 10, seed=9))
        torch.testing.assert_close(model(noisy, mask)[:3], plain[:3])
        for row, length in enumerate((5, 3, 1)):
            alone = model(frames[row : row + 1, :length], mask[row : row + 1, :length])
            torch.testing.assert_close(alone[0], plain[row])
        assert plain[3].abs().max() == 0


def test_video_hash_knows_the_order_of_frames() -> None:
    model, mask = video_hash(), torch.ones(1, 5, dtype=torch.bool)
    frames = draw(1, 5, 10)
    with torch.no_grad():
        assert not torch.allclose(model(frames, mask), model(frames.flip(1), mask), atol=1e-4)


def test_nothing_valid_has_finite_gradients() -> None:
    model = video_hash().train()
    model(draw(2, 4, 10), torch.zeros(2, 4, dtype=torch.bool)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_gradients_of_video_hash() -> None:
    model, mask = video_hash().train(), torch.tensor([[True, True, False], [True, True, True]])
    frames = draw(2, 3, 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x, mask), frames)


def test_too_many_frames() -> None:
    with pytest.raises(ValueError, match="6 frames, but positions for 5"):
        video_hash()(draw(1, 6, 10), torch.ones(1, 6, dtype=torch.bool))


def graph_network(aggregation: Aggregation) -> GraphNetwork:
    torch.manual_seed(0)
    return GraphNetwork(7, 5, BITS, width=8, aggregation=aggregation).double()


def similarity(count: int) -> Tensor:
    x = draw(count, count, seed=5).tanh()
    return (x + x.T) / 2


def obvious(model: GraphNetwork, video: Tensor, text: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H^v, H^t, H of Sec. 3.2 with batch norms written out and sums over neighbours as loops."""

    def norm(x: Tensor, layer: Any) -> Tensor:
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + layer.eps).sqrt()
        return x * layer.weight + layer.bias

    def latent(x: Tensor, layers: Any) -> Tensor:
        x = norm(x @ layers[0].weight.T, layers[1]).relu()
        return torch.stack([row / max(float(row.detach().norm()), 1e-12) for row in x])

    def convolve(x: Tensor, weights: list[list[float]], layer: Any) -> Tensor:
        degree = [sum(abs(w) for w in row) for row in weights]
        mixed = [
            sum(weights[i][j] / (degree[i] * degree[j]) ** 0.5 * (layer.linear.weight @ x[j]) for j in range(len(x)))
            for i in range(len(x))
        ]
        return norm(torch.stack(mixed), layer.norm).relu()  # type: ignore[arg-type]

    def project(x: Tensor, layers: Any) -> Tensor:
        return norm(x @ layers[0].weight.T, layers[1])

    count = len(s)
    v, t = latent(video, model.encode_video.layers), latent(text, model.encode_text.layers)
    if model.aggregation == "none":
        gv, gt, joint = v, t, v + t
    else:
        small = s.tolist()
        big = [[0.0] * (2 * count) for _ in range(2 * count)]
        for i in range(count):
            for j in range(count):
                big[i][j] = big[count + i][count + j] = small[i][j]
            big[i][count + i] = big[count + i][i] = 1.0
        gv, gt = convolve(v, small, model.convolve_video), convolve(t, small, model.convolve_text)
        if model.aggregation == "concatenation":
            hv, ht = project(gv, model.to_video), project(gt, model.to_text)
            return hv, ht, project(torch.cat([hv, ht], 1), model.to_code).tanh()
        both = convolve(torch.cat([v, t]), big, model.convolve_joint)
        joint = torch.stack([both[i] + both[count + i] for i in range(count)])
    hv, ht = project(torch.cat([gv, joint], 1), model.to_video), project(torch.cat([gt, joint], 1), model.to_text)
    parts = [hv, project(joint, model.to_joint), ht]
    return hv, ht, project(torch.cat(parts, 1), model.to_code).tanh()


@pytest.mark.parametrize("aggregation", ["joint", "concatenation", "none"])
def test_graph_network_follows_its_equations(aggregation: Aggregation) -> None:
    model = graph_network(aggregation).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias)
    video, text, s = draw(9, 7), draw(9, 5, seed=2), similarity(9)
    out = model(video, text, s)
    for got, expected in zip((out.video, out.text, out.relaxed), obvious(model, video, text, s), strict=True):
        torch.testing.assert_close(got, expected)
    assert out.video_features.shape == (9, 7)
    assert out.text_features.shape == (9, 5)
    assert set(out.codes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(out.codes, torch.where(out.relaxed >= 0, 1.0, -1.0).double())


@pytest.mark.parametrize("aggregation", ["joint", "concatenation", "none"])
def test_every_parameter_of_the_graph_network_learns(aggregation: Aggregation) -> None:
    model = graph_network(aggregation).train()
    out = model(draw(9, 7), draw(9, 5, seed=2), similarity(9))
    target = draw(9, BITS, seed=3)
    (
        F.mse_loss(out.relaxed, target) + out.video_features.square().mean() + out.text_features.square().mean()
    ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_without_the_joint_graph_a_modality_sees_itself_alone() -> None:
    video, text, s = draw(6, 7), draw(6, 5, seed=2), similarity(6)
    for aggregation, alone in (("joint", False), ("concatenation", True), ("none", False)):
        model = graph_network(aggregation).eval()
        assert hasattr(model, "convolve_joint") == (aggregation == "joint")
        with torch.no_grad():
            before, after = model(video, text, s), model(video, draw(6, 5, seed=8), s)
        assert torch.equal(before.video, after.video) == alone, aggregation
        assert not torch.allclose(before.relaxed, after.relaxed)


def test_codes_depend_on_neighbours() -> None:
    model = graph_network("joint").eval()
    video, text, s = draw(6, 7), draw(6, 5, seed=2), similarity(6)
    with torch.no_grad():
        plain = model(video, text, s).relaxed
        s[0, 3] = s[3, 0] = -s[0, 3]
        assert not torch.allclose(model(video, text, s).relaxed[0], plain[0])


def test_propagation_of_negative_and_lone_rows() -> None:
    s = torch.tensor([[1.0, -3.0, 0.0], [-3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).double().requires_grad_()
    expected = torch.tensor([[0.25, -0.75, 0], [-0.75, 0.25, 0], [0, 0, 0]]).double()
    torch.testing.assert_close(propagation(s), expected)
    propagation(s).sum().backward()
    assert torch.isfinite(s.grad).all()  # type: ignore[arg-type]
