"""What every library on PyTorch needs to take part: networks from their description, and calls to be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

Run = Callable[[torch.Tensor], torch.Tensor]


class Neurons(NamedTuple):
    """The neurons of a library, for networks.

    Args:
        lif: makes neurons that spike.
        li: makes a leaky readout.
        lif_gain: factor on the weights before a neuron that spikes, so that a constant input drives it as it does Norse's.
        li_gain: the same before a readout.
    """

    lif: Callable[[], nn.Module]
    li: Callable[[], nn.Module]
    lif_gain: float = 1.0
    li_gain: float = 1.0


def modules(spec: list[list[Any]], arrays: dict[str, np.ndarray], neurons: Neurons) -> list[nn.Module]:
    """The modules of a network, with weights from the arrays."""
    made: list[nn.Module] = []
    for index, (kind, *sizes) in enumerate(spec):
        if kind in ("linear", "conv"):
            module = nn.Linear(*sizes) if kind == "linear" else nn.Conv2d(*sizes)
            following = next(k for k, *_ in spec[index:] if k in ("lif", "li"))
            gain = neurons.lif_gain if following == "lif" else neurons.li_gain
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(arrays[f"weight{index}"])).mul_(gain)
                module.bias.copy_(torch.from_numpy(arrays[f"bias{index}"])).mul_(gain)
            made.append(module)
        else:
            made.append(
                {"lif": neurons.lif, "li": neurons.li, "pool": lambda: nn.MaxPool2d(2), "flatten": nn.Flatten}[kind]()
            )
    return made


def over_time(step: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    """A step with the state inside, once per time step."""
    return lambda x: torch.stack([step(frame) for frame in x.unbind(0)])


class Work:
    """A contender that is ready for its turns.

    Args:
        run: the computation.
        parameters: what gets gradients besides the input.
        case: the case.
        arrays: its input ``x``, and labels of networks.
        input_gain: factor on the input.
    """

    def __init__(
        self,
        run: Run,
        parameters: Iterable[torch.Tensor],
        case: dict[str, Any],
        arrays: dict[str, np.ndarray],
        input_gain: float = 1.0,
    ) -> None:
        self.run, self.parameters = run, list(parameters)
        self.x = torch.from_numpy(arrays["x"]).to(torch.float32)
        if input_gain != 1:
            self.x = self.x * input_gain
        self.labels = torch.from_numpy(arrays["labels"]) if "labels" in arrays else None
        # As many different gradients as elements would be a second input in memory; a view of few is as good.
        self.leaf = self.x.detach().requires_grad_(case["kind"] != "network")
        self.g: torch.Tensor | None = None

    @torch.no_grad()
    def inference(self) -> torch.Tensor:
        """Outputs over time."""
        return self.run(self.x)

    def training(self) -> None:
        """A forward and a backward pass."""
        for leaf in (self.leaf, *self.parameters):
            leaf.grad = None
        output = self.run(self.leaf)
        if self.labels is not None:
            nn.functional.cross_entropy(output.amax(0), self.labels).backward()
            return
        if self.g is None:
            self.g = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
        output.backward(self.g)

    def output(self) -> np.ndarray:
        """Outputs, to be compared."""
        result: np.ndarray = self.inference().numpy()
        return result


class Digits:
    """Trains a classifier, an epoch at a time."""

    def __init__(self, run: Run, parameters: Iterable[torch.Tensor], arrays: dict[str, np.ndarray]) -> None:
        self.run = run
        self.spikes, self.labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["labels"])
        self.optimizer = torch.optim.Adam(parameters, lr=1e-2)

    def _logits(self, indices: torch.Tensor) -> torch.Tensor:
        return self.run(self.spikes[indices].transpose(0, 1).float()).amax(0)

    def epoch(self, batches: list[list[int]]) -> None:
        """Trains on these batches of samples."""
        for batch in map(torch.tensor, batches):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self._logits(batch), self.labels[batch]).backward()
            self.optimizer.step()

    @torch.no_grad()
    def accuracy(self, batches: list[list[int]]) -> float:
        """The share of these samples whose digit is found."""
        right = sum(int((self._logits(b).argmax(1) == self.labels[b]).sum()) for b in map(torch.tensor, batches))
        return right / sum(map(len, batches))
