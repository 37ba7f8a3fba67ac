"""`python -m configregistry` and the `configregistry` command."""

from __future__ import annotations

import sys

from configregistry.cli.main import run


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
