from __future__ import annotations

import pytest
import torch

from tvr_lightning.evaluation.projection_codes import hyperplane_codes, pca_codes


def features(items: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(3, 0.5, width)
    return torch.randn(items, width, generator=generator) * scale + 5.0


@pytest.mark.parametrize(("items", "width"), [(200, 12), (9, 40)])
def test_principal_components_are_those_of_the_decomposition(items: int, width: int) -> None:
    x, y = features(items, width), features(30, width, 1)
    fitted = pca_codes(x, 6)
    axes = torch.linalg.svd((x - x.mean(0)).double(), full_matrices=False).Vh[:6].T
    cosines = (fitted.axes.double() * axes).sum(0)
    torch.testing.assert_close(cosines.abs(), torch.ones(6, dtype=torch.float64), atol=1e-4, rtol=0)
    codes = fitted(y)
    assert codes.shape == (30, 6)
    assert codes.dtype == torch.int8
    expected = torch.where((y - x.mean(0)).double() @ (axes * cosines.sign()) < 0, -1, 1)
    assert (codes == expected).float().mean() > 0.99
    assert torch.equal(pca_codes(x, 6)(y), codes)


def test_bits_beyond_the_rank_tell_nothing() -> None:
    x = features(5, 40)  # four components after centring
    codes = pca_codes(x, 16)(x)
    assert codes.shape == (5, 16)
    assert bool((codes[:, 4:] == 1).all())
    assert bool((codes[:, :4] == -1).any(0).all())
    same = torch.ones(6, 3)
    assert bool((pca_codes(same, 8)(same) == 1).all())


def test_hyperplanes_follow_their_seed_and_keep_angles() -> None:
    x = features(400, 20)
    codes = hyperplane_codes(x, 512, seed=3)(x)
    assert torch.equal(codes, hyperplane_codes(x, 512, seed=3)(x))
    assert not torch.equal(codes, hyperplane_codes(x, 512, seed=4)(x))
    assert bool((codes.abs() == 1).all())
    centred = x - x.mean(0)
    angle = torch.arccos(torch.nn.functional.cosine_similarity(centred[:50], centred[50:100]))
    distance = (codes[:50] != codes[50:100]).float().mean(1)
    assert float((distance - angle / torch.pi).abs().max()) < 0.1  # share of differing bits: angle / pi


def test_what_does_not_fit() -> None:
    for make in (pca_codes, hyperplane_codes):
        with pytest.raises(ValueError, match="features and bits"):
            make(torch.zeros(0, 4), 8)
        with pytest.raises(ValueError, match="features and bits"):
            make(torch.ones(4, 4), 0)
        with pytest.raises(ValueError, match=r"must be \(items, 4\)"):
            make(features(6, 4), 8)(features(6, 5))
