"""A user's program, which strict type checkers must take: `.ci/run` has it checked, and tests/test_release.py runs it."""

from __future__ import annotations

import torch
from typing_extensions import assert_type

import norse_fast as nf


class Classifier(torch.nn.Module):
    """Layers of every kind, with their states."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nf.PoissonEncoder(seq_length=20)
        self.hidden = nf.LIFRecurrent(8, 16, p=nf.LIFParameters(alpha=torch.tensor(100.0)))
        self.readout = nf.SequentialState(torch.nn.Linear(16, 4), nf.LI())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, nf.LIFState]:
        spikes, state = self.hidden(self.encode(x))
        assert_type(spikes, torch.Tensor)
        assert_type(state, nf.LIFState)
        voltage, _ = self.readout(spikes)
        return torch.as_tensor(voltage).amax(0), state


class Doubled(nf.SNNCell):
    """A neuron of the user's own, on a base class; it need not name the type of its state."""

    def __init__(self) -> None:
        super().__init__(nf.li_feed_forward_step, self.initial_state, nf.LIParameters())

    def initial_state(self, input_tensor: torch.Tensor) -> nf.LIState:
        return nf.LIState(torch.zeros_like(input_tensor), torch.zeros_like(input_tensor))


def loop_over_time(x: torch.Tensor) -> torch.Tensor:
    cell = nf.LIFCell(dt=0.002)
    state: nf.LIFFeedForwardState | None = None
    outputs: list[torch.Tensor] = []
    for step in x:
        z, state = cell(step, state)
        outputs.append(z)
    return torch.stack(outputs)


def main() -> None:
    x = torch.rand(3, 8)
    scores, state = Classifier()(x)
    print(scores.shape, state.v.shape, loop_over_time(x).shape, Doubled()(x)[0].shape)

    v, li = nf.li_feed_forward_step(x, nf.LIState(torch.zeros(3, 8), torch.zeros(3, 8)), nf.LIParameters())
    assert_type((v, li), tuple[torch.Tensor, nf.LIState])
    spikes, _ = nf.IAF()(x.unsqueeze(0).expand(5, 3, 8), state=None)
    assert_type(spikes, torch.Tensor)
    assert_type(nf.SpikeLinear(8, 2)(spikes), torch.Tensor)

    with nf.kernels_disabled():
        assert_type(nf.backends(), dict[str, str])
    model = nf.accelerate(torch.nn.Sequential(torch.nn.Linear(8, 2)), report=None)
    assert_type(model, torch.nn.Sequential)
    assert_type(nf.revert(model), torch.nn.Sequential)
    assert_type(nf.memory.waiting(), int)
    print(
        nf.__version__, nf.to_nir.__name__, nf.from_nir.__name__, nf.StateTuple.__name__, nf.AccelerationReport.__name__
    )


if __name__ == "__main__":
    main()
