"""Every name that is public contract, once. Never spell one of these anywhere else."""

from __future__ import annotations

import re
from typing import Final

GROUP: Final = "configregistry.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "ConfigRegistry"
PLURAL: Final = "configregistries"
POLICY_KIND: Final = "RolloutPolicy"
POLICY_PLURAL: Final = "rolloutpolicies"

LABEL_REGISTRY: Final = f"{GROUP}/registry"
"""On a ControllerRevision: the registry that it is a version of."""
LABEL_HASH: Final = f"{GROUP}/hash"
"""On a ControllerRevision: the hash of its content."""
ANNOTATION_PARENT: Final = f"{GROUP}/parent"
"""On a ControllerRevision: the number of the version that it followed."""
ANNOTATION_KEYS: Final = f"{GROUP}/keys"
"""On a ControllerRevision: how many keys its content has, so that nobody decodes it to count."""
ANNOTATION_CLAIMED: Final = f"{GROUP}/claimed"
"""On a ControllerRevision: touched before status names an old version, so that pruning cannot cross it."""
ANNOTATION_VERDICT: Final = f"{GROUP}/verdict"
"""On a ControllerRevision: a copy of the decision about it, from which a lost status is made again."""
COMMAND_PREFIX: Final = f"{GROUP}/command-"
"""On a ConfigRegistry: `<prefix><verb>: "<version>:<step>:<token>"`."""

LABEL_POLICY: Final = f"{GROUP}/rollout-policy"
"""On a Namespace: the RolloutPolicy that all registries in it follow."""

MAX_NAME: Final = 63
MAX_KEYS: Final = 20_000
MAX_CONTENT_BYTES: Final = 512 * 1024
"""Of the merged object's canonical JSON. etcd takes requests of 1.5 MiB at most."""

KEY_PATTERN: Final = r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?"
_KEY: Final = re.compile(KEY_PATTERN)


def is_key(text: str) -> bool:
    """Whether `text` may be a key of a registry: 1 to 253 characters of `KEY_PATTERN`."""
    return _KEY.fullmatch(text) is not None


def version_name(registry: str, number: int) -> str:
    """The ControllerRevision's name of a version; being a name makes it the fence between two writers."""
    return f"{registry}-{number}"
