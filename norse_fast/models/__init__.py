"""Whole networks of spiking neurons."""

from .conv import ConvNet, ConvNet4

__all__ = ["ConvNet", "ConvNet4"]
