"""Modules: neurons that create their own state, over one step or over time, and containers for them."""
