"""Training on several cores by hand computes what torch would compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from napari_bloodcell.models.cnn import network as cnn_network
from napari_bloodcell.models.cnn.network import Architecture, CellCnn, cell_extents
from napari_bloodcell.models.cnn.threads import AdamLinear, Crew, describe
from tests.models.test_cnn import discs

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize("n", [1, 3])
def test_a_crew_returns_results_in_order_and_leaves_torchs_threads_as_they_were(n: int):
    torch.set_num_threads(2)
    with Crew(n) as crew:
        assert crew.map(lambda i: i * i, range(5)) == [0, 1, 4, 9, 16]
        assert crew.lead(lambda: sum(crew.map(abs, (-1, -2)))) == 3
        if n > 1:
            assert set(crew.lead(lambda: crew.map(lambda _: torch.get_num_threads(), range(6)))) == {1}
    assert torch.get_num_threads() == 2


def test_an_error_in_a_thread_comes_back():
    with Crew(2) as crew, pytest.raises(ZeroDivisionError):
        crew.map(lambda i: 1 // i, (1, 0))


@pytest.mark.parametrize("n", [1, 2])
def test_a_layer_that_steps_itself_learns_as_with_adam(n: int, monkeypatch):
    monkeypatch.setattr("napari_bloodcell.models.cnn.threads._BLOCK", 150)  # blocks of 3 rows, the last of fewer
    torch.manual_seed(0)
    expected, layer = nn.Linear(50, 17), nn.Linear(50, 17)
    layer.load_state_dict(expected.state_dict())
    x, wanted = torch.rand(6, 50), torch.rand(6, 17)
    with Crew(n) as crew:
        own = AdamLinear(layer, 0.01, crew)
        optimisers = torch.optim.Adam(expected.parameters(), lr=0.01), torch.optim.Adam([own.bias], lr=0.01)
        for _ in range(5):
            gradients = []
            for module, optimiser in zip((expected, own), optimisers, strict=True):
                seen = x.clone().requires_grad_(True)
                optimiser.zero_grad()
                F.mse_loss(module(seen), wanted).backward()
                optimiser.step()
                gradients.append(seen.grad)
            torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(layer.weight, expected.weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.bias, expected.bias, atol=1e-5, rtol=1e-5)


def test_without_gradients_the_layer_does_not_step():
    torch.manual_seed(0)
    layer = nn.Linear(8, 3)
    before = layer.weight.clone()
    with Crew(1) as crew, torch.inference_mode():
        torch.testing.assert_close(AdamLinear(layer, 0.1, crew)(torch.ones(2, 8)), layer(torch.ones(2, 8)))
    torch.testing.assert_close(layer.weight, before)


@pytest.mark.parametrize("head", ["flatten", "pool"])
def test_cells_shared_among_cores_give_the_gradients_of_one(head: str, monkeypatch):
    monkeypatch.setattr("napari_bloodcell.models.cnn.threads.autocast", lambda *_, **__: torch.enable_grad())
    torch.manual_seed(0)
    network = CellCnn(Architecture(head, 8, 0.2, 3)).train()
    x = torch.from_numpy(discs([20, 90, 34, 50, 30])).permute(0, 3, 1, 2)
    parameters = list(network.features.parameters())
    weights = torch.rand_like(network.describe(x))
    expected = torch.autograd.grad((network.describe(x) * weights).sum(), parameters)
    with Crew(2) as crew:
        described = describe(network, crew, x, cell_extents(x), torch.zeros(len(x), 2))
        torch.testing.assert_close(described, network.describe(x), atol=1e-5, rtol=1e-4)
        (described * weights).sum().backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)


def test_gradients_do_not_depend_on_which_core_is_first(monkeypatch):
    torch.manual_seed(0)
    network = CellCnn(Architecture("flatten", 8, 0.2, 3)).train()
    x = torch.from_numpy(discs([20, 90, 34, 120] * 2)).permute(0, 3, 1, 2)  # windows of several sizes
    given = x, cell_extents(x), torch.zeros(len(x), 2)

    def gradients() -> list[torch.Tensor]:
        network.zero_grad()
        with Crew(1) as crew:
            describe(network, crew, *given).square().sum().backward()
        return [parameter.grad for parameter in network.features.parameters()]

    alone, described = gradients(), network._described

    def while_another_core_comes_to_its_end(*arguments: Any) -> torch.Tensor:
        torch.clear_autocast_cache()  # as leaving autocast does, for all threads
        return described(*arguments)

    monkeypatch.setattr(network, "_described", while_another_core_comes_to_its_end)
    assert all(torch.equal(a, b) for a, b in zip(alone, gradients(), strict=True))


def test_trimming_black_changes_no_gradient(monkeypatch):
    torch.manual_seed(0)
    network = CellCnn(Architecture("flatten", 8, 0.0, 3)).train()
    x = torch.from_numpy(discs([20, 60, 34])).permute(0, 3, 1, 2)
    parameters = list(network.parameters())
    trimmed = torch.autograd.grad(network(x).square().sum(), parameters)
    monkeypatch.setattr(cnn_network, "_LEAST_PLACES", cnn_network._PLACES)
    for found, whole in zip(trimmed, torch.autograd.grad(network(x).square().sum(), parameters), strict=True):
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-3)
