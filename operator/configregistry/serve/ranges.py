"""Keys in order, page by page: `GET …/keys?prefix=&start=&end=&limit=&continue=`.

All pages of a listing are of one state. Its token names that: the version of each registry of the chain by uid,
number and hash. Versions are immutable and recorded, so any replica can go on with it, whatever was stepped, rolled
back or published meanwhile; who asks does not matter any more after the first page.

    token = base64url(msgpack([format, links, (prefix, start, end, selector), last key]))

A token is no secret and not signed: to name a version, one must know the uid of its registry and the hash of its
content. So nobody reads by a token what was not shown before; a reader of one registry cannot make up another.

It must never go on with anything but what the first page was of: where that cannot be had, it says so.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Hashable
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Final, NamedTuple

import msgspec

from configregistry.serve.encoded import Cache
from configregistry.serve.params import Params, Selector
from configregistry.serve.responses import (
    REVISION_HEADER,
    VERSION_HEADER,
    Answer,
    Problem,
    Request,
    Response,
    bad_parameter,
)
from configregistry.serve.routes import Place, Route, get_data
from configregistry.serve.view import MAX_CHAIN, Given, View, Views, not_synced
from configregistry.serve.waits import Behind, Waits
from configregistry.state import Snapshot

DEFAULT_LIMIT: Final = 500
"""Keys of a page, as Kubernetes' clients page (client-go, tools/pager)."""
MAX_LIMIT: Final = 1000
MAX_BOUND: Final = 253
"""Characters of a prefix or a bound: no key is longer."""
MAX_TOKEN: Final = 8192
FORMAT: Final = 1
"""Of tokens. Another one is refused, and the listing begins anew."""
_BOUNDS: Final = ("prefix", "start", "end")
_PARAMS: Final = frozenset({*_BOUNDS, "limit", "continue", "version"})


class Filter(NamedTuple):
    """Which keys are listed; the same on all pages."""

    prefix: str = ""
    start: str | None = None
    end: str | None = None
    version: Selector | None = None


class Link(NamedTuple):
    """One registry of the chain as the first page met it."""

    name: str
    uid: str
    revision: int
    """How far a replica must be to know the version for certain."""
    number: int
    hash: str
    variant: str


class Token(NamedTuple):
    """Where a listing goes on."""

    format: int
    links: Annotated[tuple[Link, ...], msgspec.Meta(min_length=1, max_length=MAX_CHAIN)]
    filter: Filter
    after: str | None
    """The last key of the page before; None only on the way to the first."""


class Ranges:
    """Listings of the keys of one registry and its fallbacks."""

    def __init__(self, views: Views, cache: Cache, waits: Waits) -> None:
        self._views = views
        self._source = views.source
        self._cache = cache
        self._waits = waits

    def routes(self) -> list[Route]:
        """Give the routes."""
        path = "/v1/namespaces/{namespace}/registries/{name}/keys"
        return [Route("GET", path, self._waits.on(self._keys), get_data)]

    def _keys(self, request: Request, place: Place) -> Response:
        params = Params(request)
        params.allow(_PARAMS)
        limit = params.number("limit", DEFAULT_LIMIT, MAX_LIMIT)
        at = self._source.snapshot()
        text = params.text("continue", MAX_TOKEN)
        if text is None:
            return self._first(at, place, params, limit).to(request)
        token = read_token(text)
        if token.links[0].name != place.name:
            raise bad_parameter("continue", "is of another registry")
        held = token.filter
        for name, given, before in zip(_BOUNDS, _bounds(params), (held.prefix, held.start, held.end), strict=True):
            if given is not None and given != before:
                raise bad_parameter(name, "expected what it was on the first page; begin again without continue")
        if params.version not in (None, held.version):
            raise bad_parameter("version", "expected what it was on the first page; begin again without continue")
        return self._following(at, place.namespace, token, limit).to(request)

    def _first(self, at: Snapshot, place: Place, params: Params, limit: int) -> Answer:
        """Give the first page of what a consumer gets."""
        prefix, start, end = _bounds(params)
        asked = Filter(prefix or "", start, end, params.version)
        view = self._views.of(at, place.namespace, place.name, params, asked.version)
        entries = self._cache.of(view.given.registry)
        # What everybody asks for is kept; arbitrary bounds would only push that out.
        common = start is None and end is None and limit == DEFAULT_LIMIT
        kept: Hashable = (Ranges, asked, view.identity)
        answer = entries.answers.get(kept) if common else None
        if answer is None:
            links = tuple(_link(given) for given in (view.given, *view.links))
            body, empty = _page(place.namespace, view, Token(FORMAT, links, asked, None), limit)
            answer = Answer(body, view.headers)
            if common and not empty:
                entries.keep(kept, answer)
        return answer

    def _following(self, at: Snapshot, namespace: str, token: Token, limit: int) -> Answer:
        """Give the page behind a token, of the state that it names."""
        given, *links = (self._find(at, namespace, link) for link in token.links)
        body, _empty = _page(namespace, View(given, tuple(links), ()), token, limit)
        first = token.links[0]
        return Answer(body, [(VERSION_HEADER, str(first.number)), (REVISION_HEADER, str(first.revision))])

    def _find(self, at: Snapshot, namespace: str, link: Link) -> Given:
        """Find the version that a token names, given to somebody at present or not."""
        registry = at.registry(namespace, link.name)
        if registry is None and not self._source.ready:
            raise not_synced()
        if registry is not None and registry.uid == link.uid:
            version = self._source.history(namespace, registry, link.number)
            if version is not None and version.hash == link.hash:
                return Given(registry, version, link.variant)
            if registry.revision < link.revision:
                here = f"this replica has revision {registry.revision} of {namespace}/{link.name}"
                raise Behind(f"{here}, the page before was of {link.revision}")
        detail = (
            f"version {link.number} of {namespace}/{link.name} is not recorded any more; begin again without continue"
        )
        raise Problem(HTTPStatus.GONE, "SnapshotGone", detail)


def read_token(text: str) -> Token:
    """Read a token. Raises `Problem` for what this program has not written."""
    try:
        token = _DECODER.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.MsgspecError):  # binascii's and Unicode's are ValueErrors
        token = None
    if token is None or write_token(token) != text or token.format != FORMAT:
        raise bad_parameter("continue", "expected what the page before gave; begin again without it")
    return token


def write_token(token: Token) -> str:
    """Give a token as text that a query takes as it is."""
    return urlsafe_b64encode(msgspec.msgpack.encode(token)).rstrip(b"=").decode("ascii")


_DECODER: Final = msgspec.msgpack.Decoder(Token)
_text = msgspec.json.encode


def _bounds(params: Params) -> tuple[str | None, ...]:
    return tuple(params.text(name, MAX_BOUND) for name in _BOUNDS)


def _link(given: Given) -> Link:
    registry, version = given.registry, given.version
    return Link(registry.name, registry.uid, registry.revision, version.number, version.hash, given.variant)


def _page(namespace: str, view: View, at: Token, limit: int) -> tuple[bytes, bool]:
    """Give a page's body, and whether it has no keys."""
    prefix, start, end, _version = at.filter
    found = list(islice(view.scan(prefix=prefix, start=start, end=end, after=at.after), limit + 1))
    first = at.links[0]
    head = _text(
        {
            "namespace": namespace,
            "registry": first.name,
            "version": first.number,
            "hash": first.hash,
            "variant": first.variant,
            "revision": first.revision,
        }
    )
    sources = {given.registry.name: _text(given.registry.name) for given in (view.given, *view.links)}
    keys = b",".join(
        b'{"key":%b,"value":%b,"source":%b}' % (_text(key), value, sources[given.registry.name])
        for key, value, given in found[:limit]
    )
    tail = b""
    if len(found) > limit:
        tail = b',"continue":%b' % _text(write_token(at._replace(after=found[limit - 1][0])))
    return b'%b,"keys":[%b]%b}' % (head[:-1], keys, tail), not found
