"""What ``torch.library.opcheck`` demands of an operator."""

from __future__ import annotations

from typing import Any

import torch

QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")


def opcheck(operator: torch._ops.OpOverload, arguments: tuple[Any, ...], traced: bool = True) -> None:
    """Without ``traced``, all but the comparison of a traced call, which takes ten times as long as the rest.

    That comparison is about gradients and shapes. They do not depend on the dtype, nor on which parameters are shared, so an
    operator needs it once for each of its ways through autograd.
    """
    utilities = (*QUICK, "test_aot_dispatch_dynamic") if traced else QUICK
    torch.library.opcheck(operator, arguments, test_utils=utilities)
