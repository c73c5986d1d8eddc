"""Count the coverage of the campaigns' arrays, design by design."""

import argparse
from pathlib import Path

from tests.coverage import results

parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__)
parser.add_argument("--designs", nargs="+", choices=results.DESIGNS, default=list(results.DESIGNS), metavar="NAME")
parser.add_argument("--trials", type=int, default=300, help="random programs on each array")
parser.add_argument("--holes", type=Path, help="folder for lists of what wasn't reached")
arguments = parser.parse_args()
for name in arguments.designs:
    print(results.measure(name, arguments.trials, arguments.holes), flush=True)
