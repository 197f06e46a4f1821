"""`python -m sweeps` is `fulcrum`."""

from sweeps.cli import main

main()
