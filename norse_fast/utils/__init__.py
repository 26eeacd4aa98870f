"""Helpers around states: named tuples of tensors, and the question which modules carry one."""
