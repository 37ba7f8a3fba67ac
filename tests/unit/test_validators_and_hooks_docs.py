"""What docs/validators-and-hooks.md shows is so: its server answers, its JSON is what the schemas say."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import yaml

from configregistry.clock import SystemClock
from configregistry.health import Outbound
from configregistry.model.hook_messages import read_hook, read_validation
from configregistry.model.spec import parse_spec
from configregistry.reconcile import hooks, validation
from configregistry.reconcile.asking import Ask, Asker, Post

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "validators-and-hooks.md").read_text()
SERVE = 'http.server.ThreadingHTTPServer(("", 8090), Handler).serve_forever()\n'
SCHEMAS = {"ValidationRequest": "validation-request", "HookEvent": "hook-event"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def schema(name: str) -> Any:
    return json.loads((DOCS / "spec" / f"{name}.schema.json").read_text())


@pytest.fixture
def url() -> Iterator[str]:
    """The page's server, but for its port."""
    (code,) = blocks("python")
    assert code.endswith(SERVE)
    shown: dict[str, Any] = {}
    exec(compile(code.removesuffix(SERVE), "validators-and-hooks.md", "exec"), shown)
    with ThreadingHTTPServer(("127.0.0.1", 0), shown["Handler"]) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_every_message_of_the_page_is_what_its_schema_says() -> None:
    shown = [json.loads(each) for each in blocks("json")]
    assert [each["kind"] for each in shown] == ["ValidationRequest", "HookEvent"]
    for each in shown:
        jsonschema_rs.validate(schema(SCHEMAS[each["kind"]]), each)


@pytest.mark.parametrize("name", ["validation-request", "validation-answer", "hook-event", "hook-answer"])
def test_every_schema_is_one(name: str) -> None:
    jsonschema_rs.meta.validate(schema(name))


async def test_the_server_of_the_page_answers(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    validation_message, event = (json.loads(each) for each in blocks("json"))
    outbound = Outbound(allow_local=True)
    asker = Asker(outbound, SystemClock(), first=1, most=1)

    async def asked(message: Any, read: Any) -> Any:
        def made() -> Post:
            return Post(url, msgspec.json.encode(message), message["id"], 30.0)

        def failed(_: Ask[Any]) -> bool:
            return False

        ask = asker.ask(made, read, failed, "docs")
        assert ask.task is not None
        await ask.task
        assert ask.failure == ""
        return ask.answer

    try:
        assert (await asked(validation_message, read_validation)).allowed
        validation_message["data"]["vat.percent"] = 26
        refused = await asked(validation_message, read_validation)
        assert (refused.allowed, refused.message) == (False, "vat.percent may be 25 at most")
        event["when"] = "PreRollout"
        assert (await asked(event, read_hook)).allowed
        (tmp_path / "freeze").touch()
        said = await asked(event, read_hook)
        assert (said.allowed, said.message) == (False, "there is a freeze")
        assert (await asked({**event, "when": "Rollback"}, read_hook)).allowed
    finally:
        await asker.close()
        await outbound.close()


def test_the_example_can_be_asked() -> None:
    text = (DOCS / "examples" / "validators-and-hooks.yaml").read_text()
    spec = parse_spec(json.dumps(yaml.safe_load(text)["spec"]).encode())
    assert {hook.when for hook in spec.hooks} == {"PreRollout", "PostRollout", "Rollback"}
    assert spec.validators
    validation.examine(spec)
    hooks.examine(spec)
