"""Config Registry: progressive delivery for configuration, native to Kubernetes."""

import os

__version__ = "0.1.0"

# Read when pyrsistent is imported, so it must be said before anything of ours is: see docs/adr/0003.
os.environ.setdefault("PYRSISTENT_NO_C_EXTENSION", "1")
