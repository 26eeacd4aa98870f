"""Compares norse_fast with other libraries, each contender in a process of its own, turn by turn: ``make bench-peers``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cases
import numpy as np
from plot import draw
from rich.console import Console
from rich.progress import track
from table import peers_table

from norse_fast.benchmark.machine import BUSY_LOAD, Neighbours, describe_machine
from norse_fast.benchmark.timing import quartiles

HERE = Path(__file__).parent
FAST = "norse_fast"
#: Modules beside this file, by the environment that they need.
LIBRARIES = {"torch": ("fast", "norse_", "spikingjelly_", "snntorch_", "rnn"), "jax": ("spyx_", "brainevent_")}
MODES = ("inference", "training")
#: Contenders whose outputs should be those of another one: the models coincide.
SAME = {
    "layer": {
        "Norse": FAST,
        "Norse cell": FAST,
        "SpikingJelly": f"{FAST} LIFBox",
        "snnTorch Leaky": f"{FAST} LIFBox",
    },
    "recurrent": {"Norse": FAST},
    "network": {"Norse": FAST, f"{FAST}, products": FAST},
}
MOST_COMPARED = 1 << 22  # elements of an input; of longer ones outputs are not compared
EPOCHS = 8


class Contender:
    """A process that computes what it is told.

    Args:
        python: the interpreter of its environment.
        library: a module beside this file.
        threads: its threads.
    """

    def __init__(self, python: str, library: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py"), library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            stderr=subprocess.DEVNULL,
        )

    @cached_property
    def hello(self) -> dict[str, Any]:
        """What the process says of its library; it takes seconds to load."""
        return self.ask("hello")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer; ``error`` is in it where that failed."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        return answer

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()


def start(pythons: dict[str, str | None], threads: int) -> tuple[dict[str, Contender], dict[str, str]]:
    """A process for every contender, and what is missing, with the reason."""
    started: dict[str, Contender] = {}
    missing = {}
    first = {}
    for environment, libraries in LIBRARIES.items():
        for library in libraries:
            if python := pythons[environment]:
                first[library] = python, Contender(python, library, threads)
            else:
                missing[library.strip("_")] = f"no environment with {environment}"
    for library, (python, contender) in first.items():
        if "error" in contender.hello:
            missing[library.strip("_")] = contender.hello["error"]
            contender.close()
            continue
        for index, name in enumerate(contender.hello["contenders"]):
            started[name] = contender if index == 0 else Contender(python, library, threads)
    return started, missing


def difference(kind: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """How far outputs are from each other."""
    if kind == "network":
        return {"difference": float(np.abs(ours - theirs).max() / np.abs(ours).max())}
    return {"neurons_that_differ": float((ours != theirs).any(0).mean())}


def measure(
    contenders: dict[str, Contender], case: dict[str, Any], data: str, rounds: int, seconds: float, folder: Path
) -> list[dict[str, Any]]:
    """Rows of a case: every contender is built, compared where models coincide, and has its turns."""
    kind = case["kind"]
    taking_part = {name: c for name, c in contenders.items() if kind in c.hello["contenders"][name]}
    rows: dict[str, dict[str, Any]] = {}
    for name, contender in taking_part.items():
        answer = contender.ask("build", name=name, case=case, data=data)
        described = {key: case[key] for key in ("kind", "size", "name") if key in case}
        rows[name] = {**described, "contender": name, "differs": contender.hello["contenders"][name][kind], **answer}
    ready = {name: c for name, c in taking_part.items() if not rows[name].keys() & {"cannot", "error"}}
    pairs = {n: other for n, other in SAME[kind].items() if {n, other} <= ready.keys()}
    if np.prod(case["size"]) <= MOST_COMPARED:
        for name in {*pairs, *pairs.values()}:
            ready[name].ask("save", path=str(folder / f"{name}.npy"))
        for name, other in pairs.items():
            ours, theirs = (np.load(folder / f"{n}.npy") for n in (other, name))
            rows[name] |= {"same_model_as": other, **difference(kind, ours, theirs)}
    turns: dict[str, dict[str, list[float]]] = {name: {mode: [] for mode in MODES} for name in ready}
    neighbours = Neighbours([c.process.pid for c in taking_part.values()])
    for _ in range(rounds):
        for mode in MODES:
            for name in list(ready):
                answer = ready[name].ask("turn", mode=mode, seconds=seconds)
                if "error" in answer:
                    rows[name] |= answer
                    del ready[name]
                    continue
                turns[name][mode].append(float(np.median(answer["seconds"])))
    others = neighbours.cores()
    for name, row in rows.items():
        row["others"] = others
        if name in ready:
            for mode in MODES:
                own, ours = turns[name][mode], turns[FAST][mode]
                row[mode] = {"seconds": quartiles(own), "ratio": quartiles([a / b for a, b in zip(own, ours)])}
    for contender in taking_part.values():
        contender.ask("drop")
    return list(rows.values())


def classify(contenders: dict[str, Contender], quick: bool, folder: Path) -> list[dict[str, Any]]:
    """Trains the classifier of digits with every library, epoch by epoch in turn."""
    case, arrays, batches, test = cases.digits(quick)
    data, rows = cases.save(folder, arrays), {}
    taking_part = {name: c for name, c in contenders.items() if "digits" in c.hello["contenders"][name]}
    for name, contender in taking_part.items():
        answer = contender.ask("build", name=name, case=case, data=data)
        differs = contender.hello["contenders"][name]["digits"]
        rows[name] = {
            "kind": "digits",
            "size": case["size"],
            "contender": name,
            "differs": differs,
            "epochs": [],
            **answer,
        }
    neighbours = Neighbours([c.process.pid for c in taking_part.values()])
    for _ in range(1 if quick else EPOCHS):
        for name, contender in taking_part.items():
            if not rows[name].keys() & {"cannot", "error"}:
                answer = contender.ask("epoch", batches=batches, test=test)
                rows[name] |= {"error": answer["error"]} if "error" in answer else {}
                rows[name]["epochs"].append(answer)
    for row in rows.values():
        row["others"] = neighbours.cores()
    return list(rows.values())


def plan(quick: bool) -> list[Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]]]:
    """The cases, as functions that make their descriptions and data."""
    layers = [(5, 2, 8)] if quick else cases.LAYERS
    recurrent = [(5, 2, 8, 8)] if quick else cases.RECURRENT
    return [
        *(partial(cases.layer, size) for size in layers),
        *(partial(cases.network, name, quick) for name in cases.NETWORKS),
        *(partial(cases.recurrent, size) for size in recurrent),
    ]


def write(results: dict[str, Any], folder: Path) -> None:
    """Writes the results so far, lest what comes after should fail."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(json.dumps(results, indent=1) + "\n")


def main(argv: Sequence[str]) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jax-python", help="interpreter of an environment with jax, spyx and brainevent")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender (default: 5)")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not how fast")
    parser.add_argument("--output", type=Path, default=HERE.parent / "results")
    arguments = parser.parse_args(argv)
    console = Console(width=190)
    # Without the paths of this machine.
    command = f"make bench-peers ARGS='--rounds {arguments.rounds} --threads {arguments.threads}'"
    machine = describe_machine(command, (), arguments.output)
    if machine["load"] > BUSY_LOAD:
        console.print(f"Other programs are running: the load is {machine['load']}. Ratios hold better than times.")
    rounds, seconds = (2, 0.001) if arguments.quick else (arguments.rounds, 0.1)
    contenders, missing = start({"torch": sys.executable, "jax": arguments.jax_python}, arguments.threads)
    for name, reason in missing.items():
        console.print(f"{name} does not take part: {reason}")
    versions = {c.hello["package"]: c.hello["version"] for c in contenders.values()}
    rows: list[dict[str, Any]] = []
    results = {"machine": machine, "versions": versions, "missing": missing, "threads": arguments.threads, "rows": rows}
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for make in track(plan(arguments.quick), "cases", console=console):
                case, arrays = make()
                rows += measure(contenders, case, cases.save(folder, arrays), rounds, seconds, folder)
                write(results, arguments.output)
            rows += classify(contenders, arguments.quick, folder)
    finally:
        for contender in contenders.values():
            contender.close()
    write(results, arguments.output)
    draw(results, arguments.output / "peers.png")
    console.print(peers_table(results))
    console.print(f"Results are in {arguments.output}.")


if __name__ == "__main__":
    main(sys.argv[1:])
