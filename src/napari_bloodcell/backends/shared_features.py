"""The convolutions of a training step on several cores: each has cells of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from napari_bloodcell.backends.device import autocast

if TYPE_CHECKING:
    from napari_bloodcell.backends.cnn_network import CellCnn
    from napari_bloodcell.backends.crew import Crew


def describe(network: CellCnn, crew: Crew, x: Tensor, extents: Tensor, moved: Tensor) -> Tensor:
    """Return `network.describe(x, extents, moved)`, (N, F), with gradients for its convolutions.

    Parameters
    ----------
    network : CellCnn
        In training.
    crew : Crew
        Threads that share the cells: each has small ones and large ones.
    x, extents, moved : Tensor
        Cutouts (N, 3, 128, 128), uint8 or 0 to 1; how far their cells reach, (N,), and lie from the middle, (N, 2).
    """
    order = torch.argsort(extents)
    order = torch.cat([order[i :: crew.n] for i in range(crew.n)])
    given = [of[order] for of in (x, extents, moved)]
    found: Tensor = _Described.apply(network, crew, *given, *network.features.parameters())  # type: ignore[no-untyped-call]
    return found[torch.argsort(order)]


class _Described(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, network: CellCnn, crew: Crew, x: Tensor, extents: Tensor, moved: Tensor, *parameters: Tensor
    ) -> Tensor:
        def run(part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            with torch.enable_grad(), autocast(x.device, cache_enabled=False):  # both are a thread's own
                return network.describe(*part)

        ctx.crew, ctx.parameters = crew, parameters
        ctx.found = crew.map(run, zip(*(of.chunk(crew.n) for of in (x, extents, moved)), strict=True))
        return torch.cat([one.detach() for one in ctx.found])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def run(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            found: tuple[Tensor, ...] = torch.autograd.grad(pair[0], ctx.parameters, pair[1])
            return found

        shares = torch.split(gradients[0], [len(one) for one in ctx.found])
        each = ctx.crew.map(run, zip(ctx.found, shares, strict=True))
        return (None, None, None, None, None, *(torch.stack(same).sum(0) for same in zip(*each, strict=True)))
