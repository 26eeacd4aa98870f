"""What every module supports: one table, from which tests/test_matrix.py is made and the page docs/supported.md.

A new neuron enters by its row in tests/models.py, another module by a row in OTHERS. ``python -m tests.matrix`` writes the
page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

import norse_fast as nf

from .accelerated import MODULES as IN_NORSE
from .models import MODELS

PAGE = Path(__file__).parent.parent / "docs" / "supported.md"
STEPS, BATCH, INPUTS, NEURONS = 12, 3, 5, 7

#: What can be done with a module.
FEATURES = {
    "eager": "kernels and plain PyTorch agree",
    "backward": "gradients of input and parameters",
    "state": "a sequence in parts, or step by step, is the sequence",
    "compile": "`torch.compile(fullgraph=True)`",
    "export": "`torch.export`, saved and loaded",
    "trace": "`torch.jit.trace`, saved and loaded without norse_fast's operators",
    "vmap": "`torch.func.vmap` over a batch",
    "per sample": "`vmap(grad(...))`",
    "double": "gradients of gradients",
    "autocast": "`torch.autocast` with bfloat16",
    "meta": "built on the meta device, `to_empty`, loaded",
    "copy": "`copy.deepcopy` and `pickle`",
    "state_dict": "saved and loaded, strictly",
    "inference": "`torch.inference_mode`",
    "sparse": "a sparse COO input",
    "integers": "boolean and integer inputs",
    "DDP": "`DistributedDataParallel`",
    "functional": "`torch.func.functional_call`",
    "NIR": "`to_nir` and `from_nir`",
    "accelerate": "the module of that name of Norse becomes this one",
    "Lift": "over all time steps in `Lift`",
}


@dataclass(frozen=True)
class Row:
    """A module of the table."""

    name: str
    make: Callable[[], torch.nn.Module]
    inputs: int
    over_time: bool  # whether its input has a dimension of time
    lacks: Mapping[str, str] = field(default_factory=dict)  # features that it has not, and why

    def input(self, steps: int = STEPS, batch: int = BATCH) -> torch.Tensor:
        """Spikes of a sequence, or of one step."""
        shape = (steps, batch, self.inputs) if self.over_time else (batch, self.inputs)
        return (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4).float()


#: Those that NIR has a node for.
_IN_NIR = {"LIF", "LIFCell", "LI", "LICell", "LIBox", "LIBoxCell", "LIFBox", "LIFBoxCell", "IAF", "IAFCell"}
_IN_NIR |= {"LIFRecurrent", "LIFRecurrentCell"}
_NO_NODE = {"NIR": "NIR has no node for it"}
_NOT_IN_NORSE = {"accelerate": "not among the modules that `nf.accelerate` replaces"}


def _neurons() -> list[Row]:
    rows = []
    for model in MODELS:
        for factory, over_time in ((model.layer, True), (model.cell, False)):
            if factory is None:
                continue
            sizes = () if model.kind == "ff" else (INPUTS, NEURONS)
            name = type(factory(*sizes)).__name__
            lacks: dict[str, str] = {}
            if over_time:
                lacks["Lift"] = "takes all time steps itself"
            if name not in _IN_NIR:
                lacks |= _NO_NODE
            if name not in IN_NORSE:
                lacks |= _NOT_IN_NORSE
            rows.append(Row(name, lambda f=factory, s=sizes: f(*s), NEURONS if not sizes else INPUTS, over_time, lacks))
    return rows


_DELAYS = {"sparse": "spikes wait in a dense tensor", **_NOT_IN_NORSE}
_WEIGHTED = {"integers": "as `torch.nn.Linear`, takes floating point alone"}
_CONTAINER = {
    **_WEIGHTED,
    "trace": "its state has `None`, which a trace cannot return",
    "accelerate": "stays, and what is in it is replaced",
}
OTHERS = [
    Row(
        "SpikeLinear",
        lambda: nf.SpikeLinear(INPUTS, NEURONS),
        INPUTS,
        False,
        {**_WEIGHTED, **_NOT_IN_NORSE, "state": "has none"},
    ),
    Row("Delay", lambda: nf.Delay(torch.arange(INPUTS)), INPUTS, True, {**_DELAYS, "meta": "reads its delays"}),
    Row(
        "DelayCell", lambda: nf.DelayCell(torch.arange(INPUTS)), INPUTS, False, {**_DELAYS, "meta": "reads its delays"}
    ),
    Row("DelayedLinear", lambda: nf.DelayedLinear(INPUTS, NEURONS, 4), INPUTS, True, {**_DELAYS, **_NO_NODE}),
    Row("DelayedLinearCell", lambda: nf.DelayedLinearCell(INPUTS, NEURONS, 4), INPUTS, False, {**_DELAYS, **_NO_NODE}),
    Row(
        "SequentialState",
        lambda: nf.SequentialState(torch.nn.Linear(INPUTS, 4), nf.LIFCell(), nf.LICell()),
        INPUTS,
        False,
        _CONTAINER,
    ),
    Row(
        "Lift", lambda: nf.Lift(nf.SequentialState(torch.nn.Linear(INPUTS, 4), nf.LIFCell())), INPUTS, True, _CONTAINER
    ),
]
#: Modules that the table leaves out, and why.
OUTSIDE = {
    **dict.fromkeys(("SNN", "SNNCell", "SNNRecurrent", "SNNRecurrentCell"), "bases of the neurons"),
    **dict.fromkeys(
        ("PoissonEncoder", "PoissonEncoderStep", "SignedPoissonEncoder", "SignedPoissonEncoderStep"), "draw at random"
    ),
    **dict.fromkeys(
        ("ConstantCurrentLIFEncoder", "PopulationEncoder", "SpikeLatencyEncoder", "SpikeLatencyLIFEncoder"), "encoders"
    ),
    **dict.fromkeys(("SpikesToTimesDecoder", "RegularizationCell", "ExpFilter", "LIFCorrelation"), "no neurons alone"),
    **dict.fromkeys(("LConv2d", "SpikeConv2d", "SpikeMaxPool2d", "SpikeAvgPool2d"), "take images"),
    **dict.fromkeys(
        (
            *("SpatialReceptiveField2d", "SampledSpatialReceptiveField2d", "ParameterizedSpatialReceptiveField2d"),
            "TemporalReceptiveField",
        ),
        "take images",
    ),
    "RecurrentSequential": "a container as `SequentialState`",
}
ROWS = [*_neurons(), *OTHERS]


def page() -> str:
    """The page of the table."""
    reasons = sorted({(feature, reason) for row in ROWS for feature, reason in row.lacks.items()})
    notes = {key: number for number, key in enumerate(reasons, 1)}
    lines = [
        "# What every module supports",
        "",
        "Printed from `tests/matrix.py`, every cell of which is a test, on the CPU. A number stands where a module lacks a",
        "feature, and leads to the reason.",
        "",
        *(f"- **{name}**: {meaning}" for name, meaning in FEATURES.items()),
        "",
        f"| module | {' | '.join(FEATURES)} |",
        f"|---|{'---|' * len(FEATURES)}",
    ]
    for row in ROWS:
        marks = [str(notes[feature, row.lacks[feature]]) if feature in row.lacks else "✓" for feature in FEATURES]
        lines.append(f"| `{row.name}` | {' | '.join(marks)} |")
    lines += ["", *(f"{number}. {feature}: {reason}" for (feature, reason), number in notes.items())]
    left = sorted({reason: [n for n, r in OUTSIDE.items() if r == reason] for reason in OUTSIDE.values()}.items())
    lines += ["", "Not in the table, but tested elsewhere:", ""]
    lines += [f"- {', '.join(f'`{name}`' for name in names)}: {reason}" for reason, names in left]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
