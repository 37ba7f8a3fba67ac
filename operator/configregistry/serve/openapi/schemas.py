"""The bodies of requests and answers, as JSON Schema 2020-12."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

KEY: Final = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,60}[A-Za-z0-9])?$"
HASH: Final = "9d3c1a2b4e5f6071"
_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_NUMBER: Final[Json] = {"type": "integer", "minimum": 1}
_ANY: Final[Json] = {"description": "Any JSON value."}
_DATA: Final[Json] = {
    "type": "object",
    "additionalProperties": True,
    "description": "Key -> any JSON value.",
    "examples": [{"timeout.ms": 2500, "feature.new-basket": True}],
}


def ref(name: str) -> Json:
    """Refer to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Json, optional: tuple[str, ...] = (), *, more: bool = False, **rest: Any) -> Json:
    made: Json = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        **rest,
    }
    return made if more else {**made, "additionalProperties": False}


def _list(items: Json, **rest: Any) -> Json:
    return {"type": "array", "items": items, **rest}


_REVISION: Final[Json] = {
    **_COUNT,
    "description": "Raised by each decision; the same in every replica.",
}
_HASH: Final[Json] = {
    "type": "string",
    "pattern": "^[0-9a-f]{16}$",
    "description": "First 16 hex digits of SHA-256 over RFC 8785 canonical JSON of the version's own content.",
    "examples": [HASH],
}
_VARIANT: Final[Json] = {"enum": ["stable", "canary"]}
_READ_VARIANT: Final[Json] = {
    "enum": ["stable", "canary", "history"],
    "description": "history: a version that was asked for by its number.",
}
_POINTER: Final[Json] = {
    "type": "string",
    "description": "JSON Pointer of a key.",
    "examples": ["/timeout.ms"],
}

_OBSERVED: Final[Json] = _object(
    {
        "version": {**_NUMBER, "maximum": 2147483647, "description": "The version that the consumer works with."},
        "status": {"enum": ["ok", "error"]},
        "message": {"type": "string", "maxLength": 1024},
    },
    optional=("message",),
)

SCHEMAS: Final[Json] = {
    "Problem": _object(
        {
            "type": {
                "type": "string",
                "format": "uri",
                "description": "Its end is the problem's name.",
            },
            "title": _TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": _TEXT,
            "instance": _TEXT,
            "field": {"type": "string", "description": "The input that was bad."},
        },
        optional=("field",),
        description="An error as RFC 9457 has it.",
    ),
    "RegistryList": _object(
        {
            "namespace": _TEXT,
            "registries": _list(
                _object(
                    {
                        "name": _TEXT,
                        "stable": {"type": ["integer", "null"]},
                        "canary": {"type": ["integer", "null"]},
                        "weight": {"type": ["integer", "null"], "description": "Percent of targets."},
                        "revision": _REVISION,
                    }
                )
            ),
        }
    ),
    "Registry": _object(
        {
            "namespace": _TEXT,
            "registry": _TEXT,
            "version": _NUMBER,
            "hash": _HASH,
            "variant": _READ_VARIANT,
            "revision": _REVISION,
            "data": _DATA,
        }
    ),
    "KeyOrValue": {"anyOf": [ref("KeyValue"), {"description": "With `raw`: the bare value, any JSON."}]},
    "KeyValue": _object(
        {
            "key": _TEXT,
            "value": _ANY,
            "version": _NUMBER,
            "revision": _REVISION,
            "variant": _READ_VARIANT,
            "source": {"type": "string", "description": "The registry of the fallback chain that had it."},
        }
    ),
    "KeyRange": _object(
        {
            "namespace": _TEXT,
            "registry": _TEXT,
            "version": _NUMBER,
            "hash": _HASH,
            "variant": _READ_VARIANT,
            "revision": _REVISION,
            "keys": _list(_object({"key": _TEXT, "value": _ANY, "source": _TEXT})),
            "continue": {
                "type": "string",
                "description": "Names snapshot and place; lacking: that was all.",
            },
        },
        optional=("continue",),
    ),
    "VersionList": _object(
        {
            "namespace": _TEXT,
            "registry": _TEXT,
            "revision": _REVISION,
            "versions": _list(
                _object(
                    {
                        "version": _NUMBER,
                        "hash": _HASH,
                        "state": {"enum": ["stable", "canary", "recorded"]},
                        "keys": _COUNT,
                        "parent": {"type": ["integer", "null"]},
                        "createdAt": {"type": ["string", "null"]},
                    },
                    optional=("keys", "parent", "createdAt"),
                )
            ),
        },
        more=True,
    ),
    "Version": _object(
        {"namespace": _TEXT, "registry": _TEXT, "version": _NUMBER, "hash": _HASH, "data": _DATA}, more=True
    ),
    "Diff": _object(
        {
            "namespace": _TEXT,
            "registry": _TEXT,
            "from": _NUMBER,
            "to": _NUMBER,
            "fromHash": _HASH,
            "toHash": _HASH,
            "changes": _list(ref("Change")),
        },
        more=True,
    ),
    "Change": _object(
        {"op": {"enum": ["add", "remove", "replace"]}, "path": _POINTER, "old": _ANY, "new": _ANY},
        optional=("old", "new"),
    ),
    "Observed": _OBSERVED,
    "Heartbeat": _object(
        {
            "ttlSeconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 86400},
            "labels": {
                "type": ["object", "null"],
                "propertyNames": {"pattern": KEY},
                "additionalProperties": {"type": "string", "maxLength": 63},
                "maxProperties": 32,
                "description": "At most 32, with their names of 2,048 characters together.",
            },
            "observed": {"anyOf": [ref("Observed"), {"type": "null"}]},
            "instance": {
                "type": "string",
                "maxLength": 253,
                "description": "Who owns the id, where nobody is authenticated.",
            },
        },
        optional=("labels", "observed", "instance"),
    ),
    "Consumer": _object(
        {
            "id": _TEXT,
            "ttlSeconds": {"type": "number"},
            "ageSeconds": {"type": "number", "description": "Since the last heartbeat."},
            "registeredAgeSeconds": {"type": "number"},
            "observedAgeSeconds": {"type": ["number", "null"]},
            "labels": {"type": "object", "additionalProperties": _TEXT},
            "observed": {"anyOf": [ref("Observed"), {"type": "null"}]},
        },
        optional=("labels", "observed", "observedAgeSeconds"),
    ),
    "ConsumerList": _object(
        {"namespace": _TEXT, "registry": _TEXT, "consumers": _list(ref("Consumer"))}, optional=("namespace",), more=True
    ),
    "OfrepRequest": {
        "type": "object",
        "properties": {
            "context": {
                "type": "object",
                "properties": {"targetingKey": {"type": ["string", "null"], "maxLength": 1024}},
                "description": "Who asks: `targetingKey` is the target, all other members are attributes.",
            }
        },
    },
    "OfrepFlag": _object(
        {
            "key": _TEXT,
            "value": {**_ANY, "not": {"type": "null"}},
            "reason": {"enum": ["STATIC", "SPLIT", "TARGETING_MATCH"]},
            "variant": {"enum": ["stable", "canary"]},
            "metadata": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
        },
        optional=("value",),
        description="Without a `value` where the key's value is null: the code's default.",
    ),
    "OfrepBulk": _object(
        {
            "flags": _list(ref("OfrepFlag")),
            "eventStreams": _list({"type": "object"}),
            "metadata": {"type": "object"},
        }
    ),
    "OfrepError": _object(
        {
            "key": _TEXT,
            "errorCode": {
                "enum": ["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "FLAG_NOT_FOUND", "GENERAL"]
            },
            "errorDetails": _TEXT,
        },
        optional=("key", "errorDetails"),
        more=True,
    ),
}
"""Name -> schema."""
