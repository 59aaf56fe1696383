from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from tvr_lightning import device
from tvr_lightning.device import Graphs, fits, graphed, to_host


@pytest.mark.parametrize(("free", "reserved", "allocated", "size", "expected"), [
    (60, 0, 0, 9, True),
    (60, 0, 0, 11, False),
    (30, 40, 10, 9, True),  # what torch has reserved and does not use is free
])  # fmt: skip
def test_results_stay_while_half_of_the_memory_is_free(free, reserved, allocated, size, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: allocated)
    assert fits(size, torch.device("cuda", 0)) is expected
    assert not fits(size, torch.device("cpu"))


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), True), ((8, 0), True), ((7, 5), False), ((7, 0), False)])
def test_kernels_are_for_cards_that_triton_supports(capability, expected, monkeypatch):
    device._triton_knows.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(device, "find_spec", lambda _: object())
    assert device._triton_knows(torch.device("cuda", 0)) is expected
    device._triton_knows.cache_clear()
    monkeypatch.setattr(device, "find_spec", lambda _: None)
    assert not device._triton_knows(torch.device("cuda", 0))
    device._triton_knows.cache_clear()


def test_no_kernel_takes_doubles_or_a_cpu():
    assert not device.has_kernels(torch.ones(1))
    assert not device.has_kernels(torch.ones(1, dtype=torch.double))


def test_a_graph_keeps_its_gradients_to_itself():
    weight, own = torch.ones(3, requires_grad=True), torch.tensor([1.0, 2.0, 3.0])
    for step in (1, 2):  # gradients of two batches are added up
        device._OwnGradients.apply(weight)[0].backward(own)
        own.mul_(10)  # the next replay overwrites what the graph gave
        assert weight.grad is not None
        assert weight.grad.tolist() == ([1.0, 2.0, 3.0] if step == 1 else [11.0, 22.0, 33.0])


def test_a_copied_module_records_anew():
    layer = nn.Linear(2, 2)
    layer.graphs = Graphs(key=len)
    assert not copy.deepcopy(layer).graphs
    assert not pickle.loads(pickle.dumps(layer.graphs))


def test_on_a_cpu_nothing_is_recorded():
    layer, graphs = nn.Linear(2, 3), Graphs()
    x = torch.ones(4, 2, requires_grad=True)
    (y,) = graphed(graphs, lambda z: (layer(z),), [x], [layer])
    y.sum().backward()
    assert not graphs
    assert x.grad is not None


def test_a_tensor_of_the_cpu_stays_what_it_is():
    x = torch.arange(3)
    assert to_host(x) is x
