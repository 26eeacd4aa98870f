"""Draws the pictures of neurons.md into docs/images: ``python docs/draw_neurons.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from PIL import Image

import norse_fast as nf
from norse_fast.functional import izhikevich
from norse_fast.functional.threshold import threshold

IMAGES = Path(__file__).parent / "images"
WIDTH = 9.0  # inches, at 140 dots each
VOLTAGE, SPIKE, CURRENT, ADAPTATION, INPUT = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#777777"

plt.style.use(Path(__file__).with_name("figures.mplstyle"))


class Trace(NamedTuple):
    """A state variable to draw.

    Args:
        name: its name in the state, with dots.
        label: label of its axis.
        color: color of its line.
    """

    name: str
    label: str
    color: str


class Column(NamedTuple):
    """One simulation, drawn as one column of a figure.

    Args:
        title: title of the column.
        layer: a layer that records its states.
        x: input of each step, of one or more neurons: ``(T, neurons)``.
        threshold: threshold potential to mark; a name is that of a state variable; None for neurons without spikes.
        names: names of the neurons, where there are several.
        dt: length of a step in ms.
    """

    title: str
    layer: torch.nn.Module
    x: torch.Tensor
    threshold: float | str | None = 1.0
    names: Sequence[str] = ()
    dt: float = 1.0


CURRENT_TRACE = Trace("i", "synaptic\ncurrent $i$", CURRENT)


def steps(length: int, *pieces: tuple[float, float, float], dt: float = 1.0, base: float = 0.0) -> torch.Tensor:
    """An input of one neuron that is constant by pieces ``(start, end, value)``, all times in units of ``dt`` steps."""
    time = torch.arange(length) * dt
    x = torch.full((length,), float(base))
    for start, end, value in pieces:
        x[(time >= start) & (time < end)] = value
    return x[:, None]


def draw(file: str, columns: Sequence[Column], traces: Sequence[Trace] = (), v: str = "v", unit: str = "") -> None:
    """Draw membrane potential with spikes, further traces and the input, one simulation per column."""
    heights = [2.2, *(1.0 for _ in traces), 0.7]
    figure, axes = plt.subplots(
        len(heights),
        len(columns),
        figsize=(WIDTH, sum(heights) + 0.9),
        height_ratios=heights,
        sharex="col",
        sharey="row",
        squeeze=False,
    )
    label = f"membrane\npotential $v${f' in {unit}' if unit else ''}"
    for column, panels in zip(columns, axes.T):
        with torch.no_grad():
            spikes, states = column.layer(column.x)
        # The first state is that after the first step.
        time = column.dt * (1 + torch.arange(len(column.x)))
        draw_voltage(panels[0], column, time, spikes, states, v)
        panels[0].set_title(column.title)
        for trace, panel in zip(traces, panels[1:]):
            panel.plot(time, attrgetter(trace.name)(states)[:, 0], color=trace.color)
        panels[-1].fill_between(time - column.dt, column.x[:, 0], step="post", color=INPUT, alpha=0.6, linewidth=0)
        panels[-1].set_xlabel("time in ms")
        panels[-1].set_xlim(0, float(time[-1]))
    for panel, text in zip(axes[:, 0], [label, *(trace.label for trace in traces), "input $x$"]):
        panel.set_ylabel(text)
    figure.align_ylabels()
    save(figure, file)


def draw_voltage(panel: Any, column: Column, time: torch.Tensor, spikes: torch.Tensor, states: Any, v: str) -> None:
    """Draw membrane potentials, the threshold, and spikes as vertical lines from the threshold upward."""
    voltage = attrgetter(v)(states)
    colors = (VOLTAGE, CURRENT)
    for index in range(voltage.shape[1]):
        panel.plot(time, voltage[:, index], color=colors[index], label=column.names[index] if column.names else None)
    bottom = float(voltage.min())
    if column.threshold is None:
        return
    if isinstance(column.threshold, str):
        level = attrgetter(column.threshold)(states)[:, 0]
        color, text = ADAPTATION, f"threshold ${column.threshold}$"
    else:
        level = torch.full(time.shape, column.threshold)
        color, text = "black", "threshold"
    panel.plot(time, level, "--", color=color, linewidth=1.0)
    panel.annotate(
        text,
        (float(time[-1]), float(level.max())),
        (-2, 3),
        textcoords="offset points",
        ha="right",
        color=color,
        fontsize=9,
    )
    span = float(level.max()) - bottom
    fired = spikes[:, 0] > 0
    panel.vlines(time[fired], level[fired], level[fired] + 0.35 * span, color=SPIKE, linewidth=1.3)
    # Panels of a row share their axis.
    panel.set_ylim(top=max(float(level.max()) + 0.42 * span, panel.get_ylim()[1]))
    if column.names:
        panel.set_ylim(bottom=bottom - 0.3 * span)
        panel.legend(loc="lower center", fontsize=9, ncols=2, handlelength=1.2)


def save(figure: Any, file: str) -> None:
    """Write a figure and say how large it is."""
    path = IMAGES / file
    with BytesIO() as buffer:
        figure.savefig(buffer)
        # Few colors are enough, and make files a third as large.
        Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)
    plt.close(figure)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def draw_simple_neurons() -> None:
    """LI, LIBox, LIF, LIFBox, IAF, QIF, LIFEx."""
    pulses = steps(130, (10, 60, 0.3), (95, 96, 1.5))
    draw(
        "li.png",
        [
            Column("LI, defaults: $\\tau_{mem}$ = 10 ms", nf.LI(record_states=True), pulses, None),
            Column("LI, slow membrane: $\\tau_{mem}$ = 40 ms", slow_li(), pulses, None),
        ],
        [CURRENT_TRACE],
    )
    draw("li_box.png", [Column("LIBox", nf.LIBox(record_states=True), steps(130, (10, 60, 1.0), (95, 96, 5.0)), None)])
    draw("lif.png", [Column("LIF", nf.LIF(record_states=True), steps(150, (15, 115, 0.3)))], [CURRENT_TRACE])
    current = steps(100, (10, 80, 4.0))
    resets = {name: nf.LIFBoxParameters(reset_method=getattr(nf, name)) for name in ("reset_value", "reset_subtract")}
    draw(
        "lif_box.png",
        [Column(f"LIFBox, {name}", nf.LIFBox(p, record_states=True), current) for name, p in resets.items()],
    )
    draw("iaf.png", [Column("IAF", nf.IAF(record_states=True), steps(120, (10, 40, 0.12), (70, 105, 0.25)))])
    quadratic = nf.QIF(nf.QIFParameters(v_crit=0.4), record_states=True)
    draw(
        "qif.png",
        [Column("QIF: the second pulse takes it beyond 0.4", quadratic, steps(150, (10, 22, 0.35), (60, 68, 0.5)))],
    )
    weak = steps(150, (15, 115, 0.15))
    draw(
        "lif_ex.png",
        [
            Column("LIF: the current of 0.75 is too weak", nf.LIF(record_states=True), weak),
            Column("LIFEx: the same current makes it fire", nf.LIFEx(record_states=True), weak),
        ],
        [CURRENT_TRACE],
    )


def slow_li() -> torch.nn.Module:
    """A leaky integrator with four times the default membrane time constant."""
    return nf.LI(nf.LIParameters(tau_mem_inv=torch.tensor(1 / 40e-3)), record_states=True)


def draw_adaptive_neurons() -> None:
    """LIFAdEx, LIFRefrac, LIFAdExRefrac, LSNN."""
    long = steps(700, (50, 550, 0.4))
    draw(
        "lif_adex.png",
        [Column("LIFAdEx", nf.LIFAdEx(record_states=True), long)],
        [Trace("a", "adaptation\ncurrent $a$", ADAPTATION)],
    )
    strong = steps(120, (10, 90, 0.6))
    refractory = nf.LIFRefrac(nf.LIFRefracParameters(rho_reset=torch.tensor(10.0)), record_states=True)
    draw(
        "lif_refrac.png",
        [Column("LIFRefrac, $\\rho_{reset}$ = 10 steps", refractory, strong)],
        [Trace("lif.i", "synaptic\ncurrent $i$", CURRENT), Trace("rho", "refractory\ncounter $\\rho$", ADAPTATION)],
        "lif.v",
    )
    adaptive = nf.LIFAdExRefrac(nf.LIFAdExRefracParameters(rho_reset=torch.tensor(10.0)), record_states=True)
    draw(
        "lif_adex_refrac.png",
        [Column("LIFAdExRefrac, $\\rho_{reset}$ = 10 steps", adaptive, steps(900, (50, 750, 0.4)))],
        [
            Trace("lif_adex.a", "adaptation\ncurrent $a$", ADAPTATION),
            Trace("rho", "refractory\ncounter $\\rho$", ADAPTATION),
        ],
        "lif_adex.v",
    )
    relaxing = nf.LSNNParameters(tau_adapt_inv=torch.tensor(1 / 100e-3), beta=torch.tensor(0.5))
    draw(
        "lsnn.png",
        [
            Column("LSNN, defaults: $\\tau_{adapt}$ = 800 s, $\\beta$ = 1.8", *lsnn(nf.LSNNParameters()), "b"),
            Column("LSNN, $\\tau_{adapt}$ = 100 ms, $\\beta$ = 0.5", *lsnn(relaxing), "b"),
        ],
        [CURRENT_TRACE],
    )


def lsnn(p: nf.LSNNParameters) -> tuple[torch.nn.Module, torch.Tensor]:
    """A layer and its input."""
    return nf.LSNN(p, record_states=True), steps(350, (25, 275, 1.2))


def draw_conductances() -> None:
    """CobaLIF, LIFMC, LIFMCRefrac."""
    dt = 0.1
    x = steps(530, (2, 20, 0.0012), (20, 27, -0.0012), (30, 44, 0.0012), dt=dt)
    draw(
        "coba_lif.png",
        [Column("CobaLIF, dt = 0.1 ms", nf.CobaLIF(dt=dt, record_states=True), x, -10.0, dt=dt)],
        [
            Trace("g_e", "excitatory\nconductance", CURRENT),
            Trace("g_i", "inhibitory\nconductance", ADAPTATION),
        ],
        unit="mV",
    )
    both = torch.cat((steps(120, (10, 90, 0.6)), torch.zeros(120, 1)), 1)
    coupling = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    zeros = torch.zeros(2)
    lif = nf.LIFFeedForwardState(zeros, zeros)
    rate, share = 100.0 * coupling, 0.1 * coupling

    def lif_mc(x: torch.Tensor, state: Any, p: Any, dt: float) -> Any:
        return nf.lif_mc_feed_forward_step(x, state, rate, p, dt)

    def lif_mc_refrac(x: torch.Tensor, state: Any, p: Any, dt: float) -> Any:
        z, after = nf.lif_mc_refrac_feed_forward_step(x, state, share, p, dt)
        return z, MCState(after.lif.v, after.lif.i, after.rho, after.lif)

    names = ("driven compartment", "coupled compartment")
    draw(
        "lif_mc.png",
        [
            Column("LIFMC: coupled by 100 per second", layer(lif_mc, lif, nf.LIFParameters()), both, names=names),
            Column(
                "LIFMCRefrac: coupled by 0.1 per step",
                layer(lif_mc_refrac, MCState(zeros, zeros, zeros, lif), nf.LIFRefracParameters()),
                both,
                names=names,
            ),
        ],
    )


class MCState(NamedTuple):
    """State of coupled neurons with a refractory period, flat, so that it can be drawn like that of those without."""

    v: torch.Tensor
    i: torch.Tensor
    rho: torch.Tensor
    lif: nf.LIFFeedForwardState


def layer(step: Callable[..., Any], state: Any, p: Any) -> torch.nn.Module:
    """A layer from a step function."""
    return nf.SNN(step, lambda x: state, p, record_states=True)


class Behavior(NamedTuple):
    """Input that brings out a firing pattern, after Izhikevich (2004); times are his milliseconds, steps of dt / tau.

    Args:
        duration: length of the simulation.
        pieces: ``(start, end, value)`` of the current.
        base: the current otherwise.
        ramps: ``(start, end, height)`` of currents that grow from 0, beside the pieces.
    """

    duration: float
    pieces: tuple[tuple[float, float, float], ...] = ()
    base: float = 0.0
    ramps: tuple[tuple[float, float, float], ...] = ()


END = 1e9
BEHAVIORS = {
    "tonic_spiking": Behavior(100, ((10, END, 14),)),
    "phasic_spiking": Behavior(200, ((20, END, 0.5),)),
    "tonic_bursting": Behavior(220, ((22, END, 15),)),
    "phasic_bursting": Behavior(200, ((20, END, 0.6),)),
    "mixed_mode": Behavior(160, ((16, END, 10),)),
    "spike_frequency_adaptation": Behavior(85, ((8.5, END, 30),)),
    "class_1_exc": Behavior(300, ramps=((30, 300, 20.25),)),
    "class_2_exc": Behavior(300, base=-0.5, ramps=((30, 300, 4.05),)),
    "spike_latency": Behavior(100, ((10, 13, 7.04),)),
    "subthreshold_oscillation": Behavior(200, ((20, 25, 2),)),
    "resonator": Behavior(400, ((40, 44, 0.65), (60, 64, 0.65), (280, 284, 0.65), (320, 324, 0.65))),
    "integrator": Behavior(100, ((9.1, 11.1, 9), (14.1, 16.1, 9), (70, 72, 9), (80, 82, 9))),
    "rebound_spike": Behavior(200, ((20, 25, -15),)),
    "rebound_burst": Behavior(200, ((20, 25, -15),)),
    "threshold_variability": Behavior(100, ((10, 15, 1), (70, 75, -6), (80, 85, 1))),
    "bistability": Behavior(300, ((37.5, 42.5, 1.24), (207, 212, 1.24)), 0.24),
    "dap": Behavior(50, ((9, 10.2, 20),)),
    # Norse's recovery equation is not that of the paper for this pattern, so it rests at another current.
    "accomodation": Behavior(500, base=-49, ramps=((150, 300, 3.5), (400, 412.5, 3.5))),
    "inhibition_induced_spiking": Behavior(350, ((50, 250, 75),), 80),
    # Short, because it never stops again.
    "inhibition_induced_bursting": Behavior(130, ((50, END, 75),), 80),
}


def behavior_input(name: str) -> torch.Tensor:
    """The current of each step."""
    behavior = BEHAVIORS[name]
    dt = 1e-3 * getattr(izhikevich, name).p.tau_inv
    length = round(behavior.duration / dt)
    x = steps(length, *behavior.pieces, dt=dt, base=behavior.base)
    time = dt * torch.arange(length)[:, None]
    for start, end, height in behavior.ramps:
        x += torch.where((time >= start) & (time < end), height * (time - start) / (end - start), 0.0)
    return x


def draw_izhikevich() -> None:
    """Izhikevich: tonic spiking, and all firing patterns."""
    tonic = nf.Izhikevich(nf.tonic_spiking, record_states=True)
    draw(
        "izhikevich.png",
        [Column("Izhikevich, tonic_spiking", tonic, behavior_input("tonic_spiking"), 30.0)],
        [Trace("u", "recovery $u$", ADAPTATION)],
        unit="mV",
    )
    figure, axes = plt.subplots(8, 5, figsize=(WIDTH, 8.6), height_ratios=[3.2, 1] * 4, sharex=False)
    for index, name in enumerate(BEHAVIORS):
        row, column = divmod(index, 5)
        panel, below = axes[2 * row, column], axes[2 * row + 1, column]
        x = behavior_input(name)
        with torch.no_grad():
            spikes, states = nf.Izhikevich(getattr(izhikevich, name), record_states=True)(x)
        time = torch.arange(len(x))
        fired = spikes[:, 0] > 0
        panel.plot(time, states.v[:, 0], color=VOLTAGE, linewidth=0.9)
        panel.vlines(time[fired], states.v[fired, 0], 30.0, color=SPIKE, linewidth=0.9)
        head, _, tail = name.rpartition("_")
        panel.set_title(f"{head}_\n{tail}" if len(name) > 20 else name, fontsize=8)
        panel.set_ylim(-95, 40)
        panel.set_yticks([-80, 0], [-80, 0] if column == 0 else [])
        panel.set_xticks([])
        below.plot(time, x[:, 0], color=INPUT, linewidth=1.0)
        low, high = float(x.min()), float(x.max())
        below.set_ylim(low - 0.25 * (high - low), high + 0.25 * (high - low))
        below.set_yticks([low, high], [f"{low:g}", f"{high:.3g}"])
        below.set_xticks([0, len(x)])
        for axis in (panel, below):
            axis.set_xlim(0, len(x))
            axis.tick_params(labelsize=7)
        if column == 0:
            panel.set_ylabel("$v$ in mV", fontsize=8)
            below.set_ylabel("$I$", fontsize=8)
    for panel in axes[-1]:
        panel.set_xlabel("time in ms", fontsize=8)
    save(figure, "izhikevich_behaviors.png")


SURROGATES = {
    "super": ("$1 / (\\alpha |x| + 1)^2$", "$\\alpha$ is a slope", (1.0, 10.0, 100.0)),
    "tanh": ("$1 - \\tanh^2(\\alpha x)$", "$\\alpha$ is a slope", (1.0, 3.0, 10.0)),
    "heavi_erfc": ("$2 e^{-(\\alpha x)^2} / \\sqrt{\\pi}$", "$\\alpha$ is a slope", (1.0, 3.0, 10.0)),
    "triangle": ("$\\alpha\\, \\max(0, 1 - |x|)$", "$\\alpha$ is the amplitude", (0.3, 0.6, 1.0)),
    "circ": ("$\\alpha^3 / (\\alpha^2 + x^2)^{3/2}$", "$\\alpha$ is the width", (0.1, 0.3, 1.0)),
    "atan": ("$\\alpha / (2 (1 + (\\pi \\alpha x / 2)^2))$", "$1 / \\alpha$ is a width", (0.5, 1.0, 2.0)),
    "sigmoid": ("$\\alpha s (1 - s)$", "$1 / \\alpha$ is a width", (1.0, 2.0, 4.0)),
    "rectangle": ("$\\alpha$ where $|x| < 1 / (2 \\alpha)$", "$1 / \\alpha$ is the width", (0.5, 0.7, 1.0)),
    "triangle_width": ("$\\alpha\\, \\max(0, 1 - \\alpha |x|)$", "$1 / \\alpha$ is the width", (0.5, 0.7, 1.0)),
}


def draw_surrogates() -> None:
    """The surrogate derivatives, as autograd computes them."""
    figure, axes = plt.subplots(3, 3, figsize=(WIDTH, 8.1), sharex=True, sharey=True)
    for panel, (method, (formula, meaning, alphas)) in zip(axes.flat, SURROGATES.items()):
        for alpha, color in zip(alphas, (VOLTAGE, SPIKE, CURRENT)):
            x = torch.linspace(-2, 2, 801).requires_grad_()
            z = threshold(x, method, alpha)
            gradient = torch.zeros_like(x)
            if z.requires_grad:
                (gradient,) = torch.autograd.grad(z.sum(), x)
            panel.plot(x.detach(), gradient, color=color, label=f"$\\alpha$ = {alpha:g}")
        panel.set_title(f"{method}: {formula}\n{meaning}")
        panel.legend(fontsize=9, loc="upper right", handlelength=1.2)
        panel.grid(alpha=0.25)
    for panel in axes[-1]:
        panel.set_xlabel("$x = v - v_{th}$")
    for panel in axes[:, 0]:
        panel.set_ylabel("$\\sigma'(x)$")
    save(figure, "surrogates.png")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    draw_simple_neurons()
    draw_adaptive_neurons()
    draw_conductances()
    draw_izhikevich()
    draw_surrogates()
