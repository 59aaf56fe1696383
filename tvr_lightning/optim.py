"""Optimiser, parameter groups and learning-rate schedule; one recipe language for all methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tvr_lightning.errors import ConfigError

NO_DECAY_MODULES = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.Embedding)


@dataclass(frozen=True)
class Optimizer:
    """AdamW with two learning rates; with `weight_decay: 0` it is Adam. Or stochastic gradient descent with momentum.

    Attributes:
        lr: learning rate of everything but the encoders.
        encoder_lr: learning rate of the encoders; the same as `lr` when null.
        logit_scale_lr: learning rate of the logit scale; the same as `lr` when null.
        weight_decay: decoupled.
        decay: what decays: `matrices` other than embeddings; or `all_but_biases`, norms, embeddings and the logit
            scale too, as in the released code of the CLIP4Clip family.
        algorithm: `adamw`, or `sgd`, whose decay is part of the gradient.
        momentum: of `sgd`.
        betas: Adam's.
        eps: Adam's.
        bias_correction: Adam's, of the averages in the first steps; the family's BertAdam has none.
        warmup: share of all steps in which the rate rises linearly.
        schedule: what follows the warm-up: `cosine` to zero, or `constant`. `bertadam_cosine` and `bertadam_linear` are
            BertAdam's: the first step has a rate of 0, and the cosine is that of all steps, the warm-up's among them,
            so that the rate drops where the warm-up ends; the line falls from there to 0.
        loss_chunk: pairs whose activations a training step keeps at a time; the loss and its gradients remain those of
            the whole batch. Null keeps all: faster.
        compile_encoders: trains with the encoders' towers under torch.compile: their first steps take a minute longer,
            all others less. Evaluation is not compiled.
    """

    lr: float = 1e-4
    encoder_lr: float | None = None
    logit_scale_lr: float | None = None
    weight_decay: float = 0.0
    decay: Literal["matrices", "all_but_biases"] = "matrices"
    algorithm: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    bias_correction: bool = True
    warmup: float = 0.0
    schedule: Literal["cosine", "constant", "bertadam_cosine", "bertadam_linear"] = "constant"
    loss_chunk: int | None = None
    compile_encoders: bool = False

    def __post_init__(self) -> None:
        """Refuses numbers that make no sense, before training begins.

        Raises:
            ConfigError: names the setting and its range.
        """
        rates = {"lr": self.lr, "encoder_lr": self.encoder_lr, "logit_scale_lr": self.logit_scale_lr}
        for name, value in rates.items():
            if value is not None and not 0 <= value < math.inf:  # 0 trains nothing, which an ablation may want
                raise _outside(name, value, "a learning rate is 0 or above")
        for name, value in (("weight_decay", self.weight_decay), ("eps", self.eps)):
            if not 0 <= value < math.inf:
                raise _outside(name, value, "0 or above")
        if self.eps == 0 and not self.bias_correction:
            raise _outside("eps", 0, "above 0 without bias correction: a gradient of 0 would be divided by it")
        if not 0 <= self.warmup <= 1:
            raise _outside("warmup", self.warmup, "a share of all steps, from 0 to 1")
        for name, values in (("betas", self.betas), ("momentum", (self.momentum,))):
            if not all(0 <= value < 1 for value in values):
                raise _outside(name, getattr(self, name), "from 0 to below 1")
        if self.algorithm == "sgd" and not self.bias_correction:
            raise ConfigError("model.optimizer.bias_correction is Adam's: leave it out with algorithm: sgd")


def _outside(name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"model.optimizer.{name} is {value}: {allowed}")


def parameter_groups(
    module: nn.Module, encoders: Iterable[nn.Module], options: Optimizer, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in named groups: encoder, head, logit scale or a part with its own rate; with decay or not.

    Under `decay: matrices` one-dimensional parameters, embeddings (tables and learned positions are not weights of a
    product) and scalars take none.

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
        last = name.rpartition(".")[2]
        plain = parameter.ndim <= 1 or id(parameter) in undecayed or "embedding" in last
        if options.decay == "all_but_biases":
            plain = "bias" in last
        own = next((part for part in rates or () if name.startswith(f"{part}.")), None)
        part, rate = "encoder" if encoder else "head", options.lr
        if rates and own is not None:
            part, rate = own, rates[own]
        elif options.logit_scale_lr is not None and any(word.startswith("logit_scale") for word in name.split(".")):
            part, rate = "logit_scale", options.logit_scale_lr
        elif encoder and options.encoder_lr is not None:
            rate = options.encoder_lr
        key = f"{part}{'_no_decay' if plain else ''}"
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
    """Builds it over `parameter_groups`; `fused` is faster, and needs unscaled gradients: `scales_losses`."""
    groups = parameter_groups(module, encoders, options, rates)
    if options.algorithm == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
    if not options.bias_correction:
        return UncorrectedAdamW(groups, betas=options.betas, eps=options.eps)
    optimizer = torch.optim.AdamW(groups, betas=options.betas, eps=options.eps, fused=fused)
    if fused:  # it could take a scale off by itself, so Lightning would not let it be clipped, in bf16 neither
        optimizer._step_supports_amp_scaling = False
    return optimizer


class UncorrectedAdamW(torch.optim.AdamW):
    """AdamW without bias correction: BertAdam's step, m / (sqrt(v) + eps) with m and v from zero.

    The first step is (1 - b1) / sqrt(1 - b2) of AdamW's: 0.7 of it with betas of 0.9 and 0.98.

    >>> x = nn.Parameter(torch.zeros(1))
    >>> x.grad = torch.ones(1)
    >>> _ = UncorrectedAdamW([x], lr=1.0, betas=(0.9, 0.98), eps=0.0).step()
    >>> x.data
    tensor([-0.7071])
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for p in parameters:
                if not self.state[p]:
                    zeros = partial(torch.zeros_like, p, memory_format=torch.preserve_format)
                    self.state[p] |= {"step": torch.tensor(0.0), "exp_avg": zeros(), "exp_avg_sq": zeros()}
                self.state[p]["step"] += 1
            gradients = [p.grad for p in parameters]
            means, squares = ([self.state[p][name] for p in parameters] for name in ("exp_avg", "exp_avg_sq"))
            (beta1, beta2), rate = group["betas"], group["lr"]
            torch._foreach_lerp_(means, gradients, 1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            divisors = torch._foreach_sqrt(squares)
            torch._foreach_add_(divisors, group["eps"])
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
            torch._foreach_addcdiv_(parameters, means, divisors, -rate)
        return loss


def scales_losses(trainer: Trainer) -> bool:
    """Whether a trainer scales losses, as fp16 does: gradients are clipped before a fused step could take it off."""
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


def learning_rate_factor(step: int, total: int, options: Optimizer) -> float:
    """Factor on every group's rate at an optimiser step, 0-based: linear warm-up, then what `schedule` says."""
    if options.schedule.startswith("bertadam"):
        share = min(1.0, step / max(1, total))
        if share < options.warmup:
            return share / options.warmup
        linear = options.schedule == "bertadam_linear"
        return (1 - share) / max(1e-12, 1 - options.warmup) if linear else 0.5 * (1 + math.cos(math.pi * share))
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
