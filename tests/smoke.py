"""What an installed package must do, whatever it was built as: ``python tests/smoke.py``, from any folder."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import torch

import norse_fast as nf
from norse_fast._kernels.extension import BUILD


def main() -> None:
    assert sys.prefix in nf.__file__, nf.__file__
    assert metadata.version("norse-fast") == nf.__version__ == BUILD["version"]
    assert Path(nf.__file__).with_name("py.typed").exists()

    torch.manual_seed(0)
    model = nf.SequentialState(torch.nn.Linear(8, 16), nf.LIF(), torch.nn.Linear(16, 4), nf.LI())
    spikes = (torch.rand(20, 3, 8) < 0.5).float()
    voltage, _ = model(spikes)
    voltage.amax(0).sum().backward()
    with nf.kernels_disabled():
        expected, _ = model(spikes)
    assert torch.equal(voltage, expected)
    assert all(parameter.grad is not None for parameter in model.parameters())

    backends = nf.backends()
    assert (backends["cpu"] == "none") == BUILD.get("pure", False), backends
    print(f"norse_fast {nf.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}: {backends}")


if __name__ == "__main__":
    main()
