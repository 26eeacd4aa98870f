"""The memory that large results on the CPU come from.

The operating system clears fresh memory, which takes longer than a kernel that fills it. So the memory of large results
that are no longer used waits for the next result of that size. This module tells how much waits, gives it back, and sets
how much may wait.
"""

from __future__ import annotations

import torch

from ._kernels.extension import has_kernels

__all__ = ["release", "set_limit", "waiting"]


def waiting() -> int:
    """How many bytes wait for their next use.

    Returns:
        Bytes; 0 where PyTorch takes the place of the kernels.

    Example:
        >>> waiting() >= 0
        True
    """
    return int(torch.ops.norse_fast.waiting_bytes()) if has_kernels("cpu") else 0


def release() -> int:
    """Give the memory that waits back to the system.

    Results that are still in use keep theirs.

    Returns:
        How many bytes were given back.

    Example:
        >>> _ = release()
        >>> waiting()
        0
    """
    return int(torch.ops.norse_fast.release_waiting()) if has_kernels("cpu") else 0


def set_limit(bytes: int) -> int:
    """Set how many bytes may wait; what is over that is given back at once.

    The limit holds for the process. At first it is a sixteenth of the memory of the machine, or of the container that the
    process is in, and 4 GiB at most. A larger one makes calls faster whose results are larger than that; 0 keeps nothing.

    Args:
        bytes: the limit, 0 or more.

    Returns:
        The limit of before.

    Raises:
        TypeError: ``bytes`` is not an integer.
        ValueError: it is negative.

    Example:
        >>> before = set_limit(2**30)
        >>> set_limit(before) == 2**30
        True
    """
    if isinstance(bytes, bool) or not isinstance(bytes, int):
        raise TypeError(f"bytes: got {type(bytes).__name__}, expected an integer; for 1 GiB pass 2**30.")
    if not 0 <= bytes < 2**63:
        raise ValueError(f"bytes: got {bytes}, expected 0 or more, and less than 2**63; 0 keeps no memory.")
    if not has_kernels("cpu"):
        return 0
    return int(torch.ops.norse_fast.set_waiting_limit(bytes))
