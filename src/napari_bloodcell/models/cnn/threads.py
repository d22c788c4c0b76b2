"""A dense layer that takes Adam's steps itself, for wide layers on a CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adam import adam

from napari_bloodcell.models.device import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from napari_bloodcell.models.cnn.network import CellCnn


BETAS, EPS = (0.9, 0.999), 1e-8
"""Those of `torch.optim.Adam`."""
WORTH_IT = 1_000_000
"""Weights from which it is quicker than Adam by `torch.optim`."""
_BLOCK = 402_000
"""Weights updated at once: they, their gradient and Adam's two averages fit into the cache."""


class AdamLinear(nn.Linear):
    """A linear layer whose weights are updated while gradients flow back through it, as `torch.optim.Adam` would.

    The gradient of wide weights is as large as they are, and yet only the product of two slim matrices. Here it is made
    in blocks that are used up while they are in the cache, so that it is never written to memory, and each core has
    rows of its own: the paper's dense layer (12.8 million weights, batches of four) learns several times sooner. The
    bias is left to an optimiser.

    Parameters
    ----------
    layer : nn.Linear
        Its parameters are taken over, not copied, so that `layer` learns too.
    learning_rate : float
        Step size.
    crew : Crew
        Threads that share the rows.
    """

    def __init__(self, layer: nn.Linear, learning_rate: float, crew: Crew) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.weight.requires_grad_(False)
        self.learning_rate = learning_rate
        self._crew = crew
        self._shares = [_Share(rows, layer.in_features) for rows in self.weight.data.chunk(crew.n)]

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out) of (N, in); in training, a backward pass through the result is a step."""
        if not (self.training and torch.is_grad_enabled()):
            return F.linear(x, self.weight, self.bias)
        z: Tensor = _Step.apply(x, self)  # type: ignore[no-untyped-call]
        return z + self.bias

    def apply_weights(self, x: Tensor) -> Tensor:
        """Return x (N, in) times the weights, (N, out)."""
        return torch.cat(self._crew.map(lambda share: share.apply_weights(x), self._shares), 1)

    def step(self, x: Tensor, dz: Tensor) -> Tensor:
        """Update the weights for input x (N, in) and gradient dz (N, out); return the gradient of x."""
        gradients = torch.split(dz, [len(share.weight) for share in self._shares], 1)
        pairs = list(zip(self._shares, gradients, strict=True))
        return torch.stack(self._crew.map(lambda pair: pair[0].step(x, pair[1], self.learning_rate), pairs)).sum(0)


class _Share:
    """Rows of the weights that one core has, with Adam's averages for them."""

    def __init__(self, weight: Tensor, n_in: int) -> None:
        self.weight = weight
        self.blocks = [_Block(rows) for rows in torch.split(weight, max(1, _BLOCK // n_in))]

    @torch.no_grad()
    def apply_weights(self, x: Tensor) -> Tensor:
        return torch.cat([x @ block.weight.t() for block in self.blocks], 1)

    @torch.no_grad()
    def step(self, x: Tensor, dz: Tensor, learning_rate: float) -> Tensor:
        dx = torch.zeros_like(x)
        memory = torch.empty_like(self.blocks[0].weight)  # for one gradient after the other
        gradients = torch.split(dz, [len(block.weight) for block in self.blocks], 1)
        for block, mine in zip(self.blocks, gradients, strict=True):
            dx.addmm_(mine, block.weight)
            block.update(torch.mm(mine.t(), x, out=memory[: len(block.weight)]), learning_rate)
        return dx


class _Block:
    """Rows that are updated at once."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.n_steps = torch.zeros((), dtype=torch.float32, device=weight.device)

    def update(self, gradient: Tensor, learning_rate: float) -> None:
        adam(
            [self.weight],
            [gradient],
            [self.mean],
            [self.square],
            [],
            [self.n_steps],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=EPS,
            maximize=False,
        )


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: AdamLinear) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer.apply_weights(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.layer.step(x, gradients[0]), None


In = TypeVar("In")
Out = TypeVar("Out")


class Crew:
    """As many threads as torch would use, in each of which torch uses one.

    Torch shares out one operation after the other among its threads, which then wait for each other. Where operations
    are small, or what one leaves in a core's cache is what the next needs, it is quicker to share out the whole chain.

    Parameters
    ----------
    n : int, optional
        Number of threads; that of torch by default. With one, the work is done by the caller.
    """

    def __init__(self, n: int | None = None) -> None:
        before = torch.get_num_threads()
        self.n = before if n is None else n
        self._pool: ThreadPoolExecutor | None = None
        self._lead: ThreadPoolExecutor | None = None
        if self.n > 1:
            self._pool = ThreadPoolExecutor(self.n - 1, initializer=_use_one_core)
            self._lead = ThreadPoolExecutor(1, initializer=_use_one_core)
            together = Barrier(self.n)  # so that each thread is there, and has chosen, before the next line
            starting = [pool.submit(together.wait) for pool in (self._lead, *[self._pool] * (self.n - 1))]
            for started in starting:
                started.result()
            torch.set_num_threads(before)  # a thread's choice is also that of threads which start later

    def map(self, function: Callable[[In], Out], parts: Iterable[In]) -> list[Out]:
        """Return what a function gives for each part, in their order; to be called within `lead`, which does the first.

        A thread that only waited for the others would have to be woken up, which takes long beside such small parts.
        """
        if self._pool is None:
            return list(map(function, parts))
        first, *others = parts
        waiting = [self._pool.submit(function, part) for part in others]
        return [function(first), *(part.result() for part in waiting)]

    def lead(self, function: Callable[[], Out]) -> Out:
        """Return what a function gives that hands out work by `map`, and does the rest on one core.

        Threads of torch's own would stand ready for their next operation, in the way of the crew.
        """
        return function() if self._lead is None else self._lead.submit(function).result()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._lead, self._pool):
            if pool is not None:
                pool.shutdown()


def _use_one_core() -> None:
    torch.get_num_threads()  # the first call in a thread takes over the program's choice
    torch.set_num_threads(1)


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
