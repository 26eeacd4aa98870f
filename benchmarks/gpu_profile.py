"""A few launches to profile on a GPU: ``ncu --section SpeedOfLight ... python benchmarks/gpu_profile.py layer``."""

from __future__ import annotations

import sys

import torch

import norse_fast as nf


def run(module: torch.nn.Module, x: torch.Tensor) -> None:
    """Inference, and a training step."""
    with torch.no_grad():
        module(x)
    leaf = x.requires_grad_()
    output = module(leaf)[0]
    output.backward(torch.ones_like(output))
    torch.cuda.synchronize()


def main() -> None:
    """Run a layer (``layer``, in float32 and bfloat16) or a recurrent one (anything else)."""
    torch.manual_seed(0)
    if sys.argv[1] == "layer":
        for dtype in (torch.float32, torch.bfloat16):
            run(nf.LIF(), 3 * torch.randn(200, 16, 16384, device="cuda", dtype=dtype))
    else:
        layer = nf.LIFRecurrent(512, 512).cuda()
        with torch.no_grad():
            layer.input_weights.mul_(10)
        run(layer, (torch.rand(200, 16, 512, device="cuda") < 0.05).float())


if __name__ == "__main__":
    main()
