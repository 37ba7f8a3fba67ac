"""`python -m tests.helm build`: have ready what the tests of the charts need. Any other arguments: run Helm with them.

Helm then is the user's own, with the user's kubeconfig: for whoever has none installed.
"""

from __future__ import annotations

import os
import sys

from .building import HelmError, ensure_helm
from .foreign import foreign_crds


def main(arguments: list[str]) -> int:
    """Exit code 1: it could not be built."""
    try:
        program = ensure_helm()
        if arguments != ["build"]:
            os.execv(program, ["helm", *arguments])
        foreign_crds()
    except HelmError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print(f"helm: {program}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
