"""Optimiser, parameter groups and learning-rate schedule; one recipe language for all methods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

NO_DECAY_MODULES = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.Embedding)


@dataclass(frozen=True)
class Optimizer:
    """AdamW with two learning rates; with `weight_decay: 0` it is Adam. Or stochastic gradient descent with momentum.

    Attributes:
        lr: learning rate of everything but the encoders.
        encoder_lr: learning rate of the encoders; the same as `lr` when null.
        weight_decay: decoupled; never on biases, norms, embeddings, the logit scale.
        algorithm: `adamw`, or `sgd`, whose decay is a part of the gradient.
        momentum: of `sgd`.
        betas: Adam's.
        eps: Adam's.
        warmup: share of all steps over which the rate rises linearly.
        schedule: what follows the warm-up: `cosine` to zero, or `constant`.
        loss_chunk: pairs whose activations a training step keeps at a time; the loss and its gradients stay those of
            the whole batch. Null keeps all: faster.
        compile_encoders: trains with the encoders' towers under torch.compile: their first steps take a minute more,
            all others less. Evaluation computes as without.
    """

    lr: float = 1e-4
    encoder_lr: float | None = None
    weight_decay: float = 0.0
    algorithm: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.0
    schedule: Literal["cosine", "constant"] = "constant"
    loss_chunk: int | None = None
    compile_encoders: bool = False


def parameter_groups(
    module: nn.Module, encoders: Iterable[nn.Module], options: Optimizer, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in named groups: encoder, head or a part with its own rate, each with decay or without.

    One-dimensional parameters, embeddings (tables and learned positions are not weights of a product) and scalars
    take no decay.

    Args:
        module: whose parameters.
        encoders: those that train at `encoder_lr`.
        options: the rates.
        rates: by the names of other parts, their own rates.
    """
    in_encoder = {id(p) for encoder in encoders for p in encoder.parameters()}
    undecayed = {
        id(p) for m in module.modules() if isinstance(m, NO_DECAY_MODULES) for p in m.parameters(recurse=False)
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        encoder = id(parameter) in in_encoder
        plain = parameter.ndim <= 1 or id(parameter) in undecayed or "embedding" in name.rpartition(".")[2]
        rate = options.encoder_lr if encoder and options.encoder_lr is not None else options.lr
        part = next((part for part in rates or () if name.startswith(f"{part}.")), "encoder" if encoder else "head")
        key, rate = f"{part}{'_no_decay' if plain else ''}", (rates or {}).get(part, rate)
        decay = 0.0 if plain else options.weight_decay
        groups.setdefault(key, {"name": key, "lr": rate, "weight_decay": decay, "params": []})["params"].append(
            parameter
        )
    return list(groups.values())


def build_optimizer(
    module: nn.Module,
    encoders: Iterable[nn.Module],
    options: Optimizer,
    fused: bool = False,
    rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Builds it over `parameter_groups`; `fused` is faster, and wants gradients without a scale: `scales_losses`."""
    groups = parameter_groups(module, encoders, options, rates)
    if options.algorithm == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
    optimizer = torch.optim.AdamW(groups, betas=options.betas, eps=options.eps, fused=fused)
    if fused:  # it could take a scale off by itself, so Lightning would not let it be clipped, in bf16 neither
        optimizer._step_supports_amp_scaling = False
    return optimizer


def scales_losses(trainer: Trainer) -> bool:
    """Whether a trainer scales losses, as fp16 does: gradients are clipped before a fused step could take it off."""
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


def learning_rate_factor(step: int, total: int, options: Optimizer) -> float:
    """Factor on every group's rate at an optimiser step, 0-based: linear warm-up, then cosine to zero or constant."""
    warmup = round(options.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def build_schedule(optimizer: torch.optim.Optimizer, total: int, options: Optimizer) -> LambdaLR:
    """The schedule as a per-step scheduler over `total` optimiser steps."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, total, options))
