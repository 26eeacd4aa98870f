"""Parameters in biological units.

Source: W. Gerstner, W. Kistler, R. Naud, L. Paninski, *Neuronal Dynamics*, Cambridge University Press, 2014, chapter 1.3, for
the orders of magnitude; the values are those of Norse.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from .._constants import constant

__all__ = ["DEFAULT_BIO_PARAMS", "default_bio_parameters"]

_MEMBRANE = {
    "tau_syn_inv": constant(1 / 2.0),
    "tau_mem_inv": constant(1 / 10.0),
    "v_leak": constant(-70.0),
    "v_th": constant(-55.0),
    "v_reset": constant(-70.0),
}

#: Potentials in mV, inverse time constants in 1/ms, by model.
DEFAULT_BIO_PARAMS: dict[str, dict[str, Any]] = {
    "li": {k: _MEMBRANE[k] for k in ("tau_syn_inv", "tau_mem_inv", "v_leak")},
    "lif": dict(_MEMBRANE),
    "lsnn": {**_MEMBRANE, "tau_adapt_inv": constant(1 / 100.0), "beta": constant(0.5)},
    "iaf": {k: _MEMBRANE[k] for k in ("v_th", "v_reset")},
    # With a width of 0 the exponential term is 0 below the threshold, and its gradient is not defined.
    "lifEx": {"delta_T": constant(0), **_MEMBRANE},
    "lifAdEx": {
        "adaptation_current": constant(0),
        "adaptation_spike": constant(0.01),
        "delta_T": constant(2.0),
        "tau_ada_inv": constant(1 / 100.0),
        **_MEMBRANE,
    },
}


def default_bio_parameters(model: str, **kwargs: Any) -> dict[str, Any]:
    """Parameters of a model in mV and 1/ms, with any of them overridden by keyword.

    The inverse time constants are per millisecond, so steps of 1 ms need ``dt=1``, not the default ``dt=0.001``.

    Args:
        model: ``"li"``, ``"lif"``, ``"lsnn"``, ``"iaf"``, ``"lifEx"`` or ``"lifAdEx"``.
        **kwargs: parameters that replace the defaults.

    Returns:
        The parameters by name, 0-dim tensors: copies that may be changed.

    Raises:
        KeyError: there is no such model.

    Example:
        >>> default_bio_parameters("lif", v_th=torch.tensor(-50.0))["v_th"]
        tensor(-50.)
    """
    if model not in DEFAULT_BIO_PARAMS:
        raise KeyError(f"model: got {model!r}, expected one of {', '.join(map(repr, DEFAULT_BIO_PARAMS))}.")
    with torch.inference_mode(False):
        return {**copy.deepcopy(DEFAULT_BIO_PARAMS[model]), **kwargs}


def replacement(p: Any, otherwise: str) -> str:
    """What to pass in place of wrong parameters, for an error."""
    if p is default_bio_parameters:
        return "pass LIFParameters.bio_default(); default_bio_parameters was a tuple in Norse 1.1.0, and is a function since"
    return otherwise
