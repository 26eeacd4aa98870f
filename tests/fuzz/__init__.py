"""Two machines that look for the next bug, run by ``python -m tests.fuzz`` or ``make fuzz``.

``public`` draws calls of the public API and compares them with plain PyTorch; ``raw`` calls the raw operators with arguments
that do not fit. Every case is a short program, made from its seed alone and run as it is printed.
"""
