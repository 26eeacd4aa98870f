"""The command line of both machines."""

from __future__ import annotations

import argparse
import random
import sys

from . import public, raw
from .workers import Run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Looks for calls that are wrong, or crash."
    )
    parser.add_argument("kind", choices=("public", "raw"), help="public calls against plain PyTorch, or raw operators")
    parser.add_argument("--cases", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, help="the seed of the first case; the next ones follow (default: random)")
    parser.add_argument("--only", type=int, metavar="CASE", help="run the case of this seed alone, and print it")
    parser.add_argument("--memory", type=float, default=8, help="GiB for a process; 0: no limit, as sanitizers need")
    parser.add_argument("--show", type=int, default=20, help="kinds of findings whose smallest program is printed")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(2**31)
    fuzz = {"public": public, "raw": raw}[options.kind]
    if options.only is not None:
        from .draw import Draw

        seed, options.cases = options.only, 1
        print(fuzz.draw_case(Draw(seed)).printed)
    print(f"{options.kind}: {options.cases} cases from seed {seed}", flush=True)
    return 0 if Run(fuzz, seed, options.cases, int(options.memory * 2**30), options.show).run() else 1


if __name__ == "__main__":
    sys.exit(main())
