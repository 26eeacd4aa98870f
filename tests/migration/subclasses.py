"""Subclasses of cells, as in code that wants other inputs, outputs or initial states."""

import norse.torch as norse
import torch
from norse.torch.functional.lif import LIFFeedForwardState
from norse.torch.functional.lif_refrac import LIFRefracFeedForwardState, LIFRefracParameters
from norse.torch.module.snn import SNN, SNNRecurrentCell


class WarmCell(norse.LIFCell):
    """Starts between rest and threshold, and counts its calls."""

    def __init__(self, start, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.calls = 0

    def initial_state(self, input_tensor):
        v = torch.full_like(input_tensor, self.start)
        return LIFFeedForwardState(v=v, i=torch.zeros_like(input_tensor))

    def forward(self, input_tensor, state=None):
        self.calls += 1
        return super().forward(input_tensor, state)


class QuietRefractory(norse.LIFRefracCell):
    """Returns nothing but spikes, and keeps its state itself."""

    state: LIFRefracFeedForwardState | None = None

    def forward(self, input_tensor):
        z, self.state = super().forward(input_tensor, self.state)
        return z


class NoisyLayer(norse.LIF):
    def forward(self, input_tensor, state=None):
        generator = torch.Generator().manual_seed(5)
        return super().forward(input_tensor + torch.randn(input_tensor.shape, generator=generator), state)


x = 10 * torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(6))
results = {}

warm = WarmCell(0.9, p=norse.LIFParameters(tau_mem_inv=torch.tensor(200.0)), dt=0.0005)
state = None
for step in x:
    z, state = warm(step, state)
results["warm"] = state.v
print("calls:", warm.calls)

quiet = QuietRefractory(LIFRefracParameters(rho_reset=torch.tensor(3.0)))
with torch.inference_mode():
    results["refractory"] = torch.stack([quiet(step) for step in x])
print("refractory spikes:", int(results["refractory"].sum()), quiet.state._fields)

results["noisy"], _ = NoisyLayer()(x)
print(isinstance(NoisyLayer(), SNN), issubclass(norse.LIFRecurrentCell, SNNRecurrentCell))
print(warm)
