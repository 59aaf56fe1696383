from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from tvr_lightning.config.compose import compose
from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.similarity import LogitScale
from tvr_lightning.optim import (
    Optimizer,
    UncorrectedAdamW,
    build_optimizer,
    build_schedule,
    learning_rate_factor,
    parameter_groups,
)


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


def test_the_logit_scale_may_have_a_rate_of_its_own_and_norms_may_decay() -> None:
    model = Model()
    options = Optimizer(lr=1e-4, encoder_lr=1e-6, logit_scale_lr=1e-7, weight_decay=0.2, decay="all_but_biases")
    groups = {g["name"]: g for g in parameter_groups(model, [model.encoder], options)}
    names = {id(p): n for n, p in model.named_parameters()}
    assert {name: {names[id(p)] for p in g["params"]} for name, g in groups.items()} == {
        "encoder": {"encoder.0.weight", "encoder.1.weight", "encoder.positional_embedding"},
        "encoder_no_decay": {"encoder.0.bias", "encoder.1.bias"},
        "head": {"head.weight", "table.weight"},
        "head_no_decay": {"head.bias"},
        "logit_scale": {"logit_scale.log"},
    }
    assert {n: (g["lr"], g["weight_decay"]) for n, g in groups.items()} == {
        "encoder": (1e-6, 0.2), "encoder_no_decay": (1e-6, 0.0), "head": (1e-4, 0.2), "head_no_decay": (1e-4, 0.0),
        "logit_scale": (1e-7, 0.2),
    }  # fmt: skip


def bert_adam(
    values: list[float], gradients: list[list[float]], options: Optimizer, rate: float, decay: float
) -> list[float]:
    """BertAdam number by number: averages from zero, no correction, the schedule's rate from a progress of 0 on."""
    (b1, b2), total = options.betas, len(gradients)
    first, second = [0.0] * len(values), [0.0] * len(values)
    for step, row in enumerate(gradients):
        x = step / total
        if x < options.warmup:
            factor = x / options.warmup
        elif options.schedule == "bertadam_cosine":
            factor = 0.5 * (1 + math.cos(math.pi * x))
        else:
            factor = max((x - 1) / (options.warmup - 1), 0)
        for i, g in enumerate(row):
            first[i] = b1 * first[i] + (1 - b1) * g
            second[i] = b2 * second[i] + (1 - b2) * g * g
            update = first[i] / (math.sqrt(second[i]) + options.eps) + decay * values[i]
            values[i] -= rate * factor * update
    return values


@pytest.mark.parametrize("schedule", ["bertadam_cosine", "bertadam_linear"])
def test_without_bias_correction_it_is_bert_adam(schedule: Any) -> None:
    options = Optimizer(lr=1e-2, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6, bias_correction=False, warmup=0.1,
                        schedule=schedule)  # fmt: skip
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    gradients = torch.randn(50, 15, dtype=torch.float64)
    weight, bias = layer.weight.flatten().tolist(), layer.bias.tolist()
    optimizer = build_optimizer(layer, [], options, fused=True)
    rates = build_schedule(optimizer, 50, options)
    for row in gradients:
        layer.weight.grad, layer.bias.grad = row[:12].view(3, 4).clone(), row[12:].clone()
        optimizer.step()
        rates.step()
    expected = bert_adam(weight, gradients[:, :12].tolist(), options, 1e-2, 0.2)
    expected += bert_adam(bias, gradients[:, 12:].tolist(), options, 1e-2, 0.0)
    found = torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_its_state_goes_on_where_it_was_saved() -> None:
    def step(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, value: float) -> None:
        parameter.grad = torch.full_like(parameter, value)
        optimizer.step()

    whole, halves = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    one, two = UncorrectedAdamW([whole], lr=0.1), UncorrectedAdamW([halves], lr=0.1)
    for value in (1.0, -0.5):
        step(one, whole, value)
    step(two, halves, 1.0)
    again = UncorrectedAdamW([halves], lr=0.1)
    again.load_state_dict(two.state_dict())
    step(again, halves, -0.5)
    assert torch.equal(whole, halves)


def test_the_released_recipe_and_why_its_fp16_weights_are_not_reproduced() -> None:
    options = compose("optimizer/clip4clip_released")["model"]["init_args"]["optimizer"]
    factors = [learning_rate_factor(s, 100, Optimizer(**{**options, "betas": (0.9, 0.98)})) for s in range(101)]
    assert (factors[0], factors[9], factors[100]) == (0.0, pytest.approx(0.9), pytest.approx(0.0))
    assert factors[10] == pytest.approx(0.5 * (1 + math.cos(0.1 * math.pi)))  # 0.976: it drops
    step = options["encoder_lr"]  # of a coordinate, as Adam makes them
    weights = torch.tensor([0.02, 0.001, 2.5e-4, 2e-4, 1e-5], dtype=torch.float16)
    moved = (weights.float() - step).half() != weights
    assert moved.tolist() == [False, False, False, True, True]
    assert torch.all(weights.float() - step != weights.float())


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


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": -1e-4}, {"lr": float("nan")}, {"lr": float("inf")}, {"encoder_lr": -1.0}, {"logit_scale_lr": -1.0},
        {"weight_decay": -1.0}, {"eps": -1.0}, {"eps": float("nan")}, {"eps": 0.0, "bias_correction": False},
        {"warmup": 2.0}, {"warmup": -1.0}, {"warmup": float("nan")}, {"betas": (1.5, 0.9)}, {"betas": (0.9, 1.0)},
        {"betas": (-1.0, 0.9)}, {"momentum": 1.0}, {"algorithm": "sgd", "bias_correction": False},
    ],
)  # fmt: skip
def test_numbers_that_no_training_means_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"model\.optimizer\.({'|'.join(settings)})"):
        Optimizer(**settings)


def test_a_rate_of_nothing_is_taken() -> None:
    assert Optimizer(lr=0.0, encoder_lr=0.0, warmup=1.0).lr == 0
