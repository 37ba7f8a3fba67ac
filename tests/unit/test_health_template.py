"""Templates: what may stand in braces, and that no value escapes from its place."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configregistry.errors import FieldError
from configregistry.health import Subject
from configregistry.health.template import NAMES, render_promql, render_url

SUBJECT = Subject("shop", "checkout", 8, "9d3c1a2b4e5f6071", 7)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("up", "up"),
        ('errors{version="{{version}}"}', 'errors{version="8"}'),
        ("{{ version }}/{{\tstableVersion  }}", "8/7"),
        ("{{namespace}}.{{registry}}.{{hash}}", "shop.checkout.9d3c1a2b4e5f6071"),
        ("{{version}}{{version}}", "88"),
        ('sum by (a) (x{a="b"})', 'sum by (a) (x{a="b"})'),
        ('x{a="{{version}}"}}}', 'x{a="8"}}}'),
        ("{ {version} }", "{ {version} }"),
    ],
)
def test_renders(text: str, rendered: str) -> None:
    assert render_promql(text, SUBJECT, "query") == rendered
    assert render_url(text, SUBJECT, "url") == rendered


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{pod}}", "'pod'"),
        ("{{Version}}", "'Version'"),
        ("a{{", "'{{'"),
        ("{{}}", "'{{}}'"),
        ("{{version}", "'{{version}'"),
        ("{{version.number}}", "'{{version.number}}'"),
        ("{{{version}}}", "'{{{version}}}'"),
        ("{{ version }} {{ver sion}}", "'{{ver sion}}'"),
    ],
)
@pytest.mark.parametrize("render", [render_promql, render_url])
def test_refuses_what_it_does_not_know(render: Callable[[str, Subject, str], str], text: str, told: str) -> None:
    with pytest.raises(FieldError) as error:
        render(text, SUBJECT, "spec.rollout.checks[0].prometheus.query")
    assert error.value.field == "spec.rollout.checks[0].prometheus.query"
    assert told in str(error.value)
    assert "stableVersion" in str(error.value)


def test_without_a_stable_version_its_name_is_empty() -> None:
    assert render_promql("[{{stableVersion}}]", SUBJECT._replace(stable_version=None), "f") == "[]"


@given(st.text(st.characters(codec="utf-8")), st.sampled_from(['"', "'"]))
def test_a_value_stays_inside_a_string_literal(value: str, quote: str) -> None:
    query = render_promql(f"{quote}{{{{registry}}}}{quote}", SUBJECT._replace(registry=value), "f")
    assert query[0] == query[-1] == quote
    assert not re.search(r"[\"'`\n]", query[1:-1])
    # Python's literals and PromQL's know \xNN alike.
    assert ast.literal_eval(query) == value


@given(st.text(st.characters(codec="utf-8")))
def test_a_value_stays_one_part_of_a_url(value: str) -> None:
    url = render_url("http://h/a/{{registry}}?b={{registry}}#c", SUBJECT._replace(registry=value), "f")
    parts = urlsplit(url)
    assert (parts.netloc, parts.path.count("/"), parts.fragment) == ("h", 2, "c")
    assert unquote(parts.path.removeprefix("/a/")) == value
    assert unquote(parts.query.removeprefix("b=")) == value


@given(st.text(alphabet="{} nameversio\t", max_size=30))
def test_what_is_rendered_has_no_braces_left(text: str) -> None:
    try:
        rendered = render_promql(text, SUBJECT, "f")
    except FieldError:
        assert "{{" in text
    else:
        assert "{{" not in rendered


def test_every_name_is_known() -> None:
    assert set(NAMES) == {"namespace", "registry", "version", "hash", "stableVersion"}
