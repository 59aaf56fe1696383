from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from tvr_lightning.nn.similarity import LogitScale
from tvr_lightning.optim import Optimizer, build_optimizer, build_schedule, learning_rate_factor, parameter_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.encoder.positional_embedding = nn.Parameter(torch.zeros(7, 4))
        self.head = nn.Linear(4, 2)
        self.table = nn.Embedding(5, 4)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.logit_scale = LogitScale(10.0)


def test_groups_hold_each_trainable_parameter_once_with_its_rate_and_decay() -> None:
    model = Model()
    options = Optimizer(lr=1e-3, encoder_lr=1e-6, weight_decay=0.2)
    groups = {g["name"]: g for g in parameter_groups(model, [model.encoder], options)}
    names = {id(p): n for n, p in model.named_parameters()}
    found = {name: {names[id(p)] for p in g["params"]} for name, g in groups.items()}
    assert found == {
        "encoder": {"encoder.0.weight"},
        "encoder_no_decay": {"encoder.0.bias", "encoder.1.weight", "encoder.1.bias", "encoder.positional_embedding"},
        "head": {"head.weight"},
        "head_no_decay": {"head.bias", "table.weight", "logit_scale.log"},
    }
    assert {n: (g["lr"], g["weight_decay"]) for n, g in groups.items()} == {
        "encoder": (1e-6, 0.2), "encoder_no_decay": (1e-6, 0.0), "head": (1e-3, 0.2), "head_no_decay": (1e-3, 0.0),
    }  # fmt: skip


def test_one_rate_for_all_without_encoder_lr() -> None:
    model = Model()
    assert {g["lr"] for g in parameter_groups(model, [model.encoder], Optimizer(lr=5e-4))} == {5e-4}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_schedule_warms_up_then_follows_its_form(schedule: str) -> None:
    options = Optimizer(warmup=0.1, schedule=schedule)  # type: ignore[arg-type]
    factors = [learning_rate_factor(s, 100, options) for s in range(101)]
    assert factors[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    if schedule == "constant":
        assert set(factors[10:]) == {1.0}
    else:
        assert factors[10] == pytest.approx(1.0)
        assert factors[55] == pytest.approx(0.5)
        assert factors[100] == pytest.approx(0.0)
        assert all(a >= b for a, b in pairwise(factors[10:]))


def test_schedule_drives_the_optimiser() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = build_schedule(optimizer, 4, Optimizer(warmup=0.5, schedule="cosine"))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.0])


def test_logit_scale_stays_at_most_100_and_can_come_down() -> None:
    scale = LogitScale(1000.0)
    assert float(scale(torch.ones(()))) == pytest.approx(100.0)
    with torch.no_grad():
        scale.log += 1
    scale.clamp_()
    assert float(scale.log) == pytest.approx(math.log(100.0))
    scale(torch.ones(())).backward()
    assert float(scale.log.grad) > 0


def test_a_part_may_have_its_own_rate() -> None:
    model = Model()
    groups = parameter_groups(model, [model.encoder], Optimizer(lr=1e-3, weight_decay=0.2), {"head": 0.5, "none": 1.0})
    assert {g["name"]: g["lr"] for g in groups} == {
        "encoder": 1e-3, "encoder_no_decay": 1e-3, "head": 0.5, "head_no_decay": 0.5,
    }  # fmt: skip
    names = {id(p): n for n, p in model.named_parameters()}
    own = {names[id(p)] for g in groups if g["lr"] == 0.5 for p in g["params"]}
    assert {"head.weight", "head.bias"} <= own


def test_sgd_is_momentum_with_the_decay_in_the_gradient() -> None:
    model = nn.Linear(2, 2, bias=False)
    options = Optimizer(lr=0.1, weight_decay=0.5, algorithm="sgd", momentum=0.8)
    optimizer = build_optimizer(model, (), options)
    weight, speed = model.weight.detach().clone(), torch.zeros(2, 2)
    for _ in range(3):
        optimizer.zero_grad()
        model.weight.square().sum().backward()
        optimizer.step()
        speed = 0.8 * speed + 2 * weight + 0.5 * weight
        weight = weight - 0.1 * speed
    torch.testing.assert_close(model.weight.detach(), weight)
