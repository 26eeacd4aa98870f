"""What a benchmark ran on, and what else ran there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import norse_fast

from .models import import_norse

__all__ = ["BUSY_CORES", "BUSY_LOAD", "Neighbours", "commit", "describe_machine"]

#: Processes that were running in the last minute, beside which a benchmark is not alone.
BUSY_LOAD = 0.5
#: Cores that other programs used while something was measured, beside which it was not alone.
BUSY_CORES = 0.2


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor()


def commit(folder: Path) -> str | None:
    """The commit that is checked out around a folder, with ``-dirty`` where files differ from it; None without git."""
    while not folder.exists():
        folder = folder.absolute().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def describe_machine(command: str, devices: Sequence[str], output: Path) -> dict[str, Any]:
    """What ran, when and on what.

    Args:
        command: the command line.
        devices: names of the devices that are measured.
        output: where the results go, in the repository whose commit they carry.
    """
    return {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(output),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "backends": norse_fast.backends(),
        "gpus": [torch.cuda.get_device_name(device) for device in devices if torch.device(device).type == "cuda"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "norse_fast": norse_fast.__version__,
        "norse": importlib.metadata.version("norse") if import_norse() else None,
    }


class Neighbours:
    """Counts the cores that other programs use, from now on.

    Args:
        processes: process numbers, besides the own, that are no others.
    """

    def __init__(self, processes: Sequence[int] = ()) -> None:
        self._own = (os.getpid(), *processes)
        self._start = self._read()

    def _read(self) -> tuple[float, float] | None:
        total = Path("/proc/stat")
        if not total.exists():
            return None
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _wait, interrupts, more, stolen = map(int, total.read_text().split()[1:9])
        own = 0
        for process in self._own:
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
            own += int(fields[11]) + int(fields[12])
        return time.perf_counter(), (user + nice + system + interrupts + more + stolen - own) / ticks

    def cores(self) -> float | None:
        """Their mean number since the start, or None where the system does not tell."""
        end = self._read()
        if self._start is None or end is None:
            return None
        return max((end[1] - self._start[1]) / max(end[0] - self._start[0], 1e-9), 0.0)
