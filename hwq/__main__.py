"""``python -m hwq`` is the command ``hwq``."""

from hwq.cli import main

main()
