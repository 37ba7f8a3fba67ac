"""Which path is answered by what: a table of routes, found by the places in a path.

A room of `serve` (reads, watch, consumers, …) gives its routes; nothing else knows all of them.
Each says what a client must be allowed to do, so that no route can be added without saying it.

Nothing here may wait, and nothing may know what a route does.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

from configregistry.serve.responses import Problem, Reply, Request, not_found

MAX_KNOWN_PATHS: Final = 4096
MAX_KNOWN_PATH: Final = 512


class Place(NamedTuple):
    """Where in the tree a path points: parts that it lacks are empty."""

    namespace: str
    name: str
    rest: tuple[str, ...]
    """The pattern's other places in order; of `{key*}` all that follows, which may contain slashes."""


class Need(NamedTuple):
    """What a client must be allowed to do: a verb on a virtual subresource of configregistries."""

    verb: str
    subresource: str
    namespace: str
    name: str
    """Empty: all of the namespace."""


_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""What Kubernetes lets a namespace or an object be called."""

Needs = Callable[[Request, Place], tuple[Need, ...]]
Endpoint = Callable[[Request, Place], Reply | Awaitable[Reply]]


def get_data(_: Request, place: Place) -> tuple[Need, ...]:
    """Read one registry."""
    return (Need("get", "data", place.namespace, place.name),)


def list_data(_: Request, place: Place) -> tuple[Need, ...]:
    """See what a namespace has."""
    return (Need("list", "data", place.namespace, ""),)


def nothing(_: Request, __: Place) -> tuple[Need, ...]:
    """Need nothing: what this tells is public."""
    return ()


class Route(NamedTuple):
    """One way to ask. GET routes answer HEAD as well.

    A pattern's places are `{namespace}`, `{name}` and others, each one segment that is not empty;
    `{key*}` at the end takes the rest of the path.
    """

    method: str
    pattern: str
    handle: Endpoint
    """Raises `Problem` for an error that the client is told."""
    needs: Needs
    body_bytes: int = 0
    """What a request may bring beyond what the server takes from anybody, once it is known who asks."""


@dataclass(slots=True)
class _Node:
    """One segment of paths: what may follow, and what answers here."""

    literal: dict[str, _Node] = field(default_factory=dict)
    place: _Node | None = None
    rest: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)


class Routes:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = tuple(routes)
        self._root = _Node()
        self._found: dict[str, tuple[dict[str, Route], Place]] = {}
        for route in self.all:
            self._add(route)

    def find(self, request: Request) -> tuple[Route, Place]:
        """Give the route, or raise the `Problem` that there is none."""
        found = self._found.get(request.path)
        if found is None:
            found = self._find(request.path)
        routes, place = found
        route = routes.get(request.method)
        if route is None:
            raise _not_allowed(request.method, routes)
        return route, place

    def _find(self, path: str) -> tuple[dict[str, Route], Place]:
        """Take a path apart, once for each that is asked for often."""
        taken = _walk(self._root, path.split("/"))
        if taken is None:
            raise not_found("NotFound", f"nothing is served at {path}")
        node, values = taken
        pattern = next(iter(node.routes.values())).pattern
        named = dict(zip(_places(pattern), values, strict=True))
        place = Place(named.pop("namespace", ""), named.pop("name", ""), tuple(named.values()))
        if any(part and not _NAME.fullmatch(part) for part in (place.namespace, place.name)):
            raise not_found("NotFound", f"nothing can have the name in {path!r}")
        found = node.routes, place
        if len(path) <= MAX_KNOWN_PATH:
            if len(self._found) >= MAX_KNOWN_PATHS:
                self._found.clear()
            self._found[path] = found
        return found

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.pattern.split("/"):
            if segment.endswith("*}"):
                node.rest = node.rest or _Node()
                node = node.rest
            elif segment.startswith("{"):
                node.place = node.place or _Node()
                node = node.place
            else:
                node = node.literal.setdefault(segment, _Node())
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            if method in node.routes:
                raise ValueError(f"{method} {route.pattern}: there are two of it")
            node.routes[method] = route


def _walk(root: _Node, segments: list[str]) -> tuple[_Node, list[str]] | None:
    """Go down by literals, else by places, else by the rest."""
    node, values = root, list[str]()
    for index, segment in enumerate(segments):
        following = node.literal.get(segment)
        if following is None and segment and node.place is not None:
            following = node.place
            values.append(segment)
        if following is None:
            rest = "/".join(segments[index:])
            return (node.rest, [*values, rest]) if node.rest is not None and rest else None
        node = following
    return (node, values) if node.routes else None


def _places(pattern: str) -> list[str]:
    return [segment.strip("{*}") for segment in pattern.split("/") if segment.startswith("{")]


def _not_allowed(method: str, routes: Iterable[str]) -> Problem:
    allowed = ", ".join(sorted(routes))
    return Problem(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        f"{method} is not possible here, only {allowed}",
        headers=[("allow", allowed)],
    )
