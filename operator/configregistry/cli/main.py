"""The command line. It only reads flags and names errors; what a command does lives elsewhere.

Exit codes: 0 well, 1 refused or failed, 2 wrong usage, 3 timeout.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import click
from click.shell_completion import get_completion_class

from configregistry import __version__, failpoints
from configregistry.errors import ConfigRegistryError, UsageError
from configregistry.model.durations import parse_duration
from configregistry.settings import Settings
from configregistry.telemetry import logs

PROGRAM = "configregistry"


def run(arguments: list[str] | None = None) -> int:
    """Run one command; gives the exit code and has told any error on stderr."""
    for name, value in list(os.environ.items()):
        # Kubernetes tells pods of Services so: a Service configregistry-webhook is CONFIGREGISTRY_WEBHOOK_PORT.
        if name.startswith(f"{PROGRAM.upper()}_") and re.match(r"(?:tcp|udp|sctp)://", value):
            del os.environ[name]
    try:
        code = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except ConfigRegistryError as error:
        click.echo(f"{PROGRAM}: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 1
    return code if isinstance(code, int) else 0


def _namespaces(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Each namespace once, and none that cannot exist."""
    for name in given:
        if not _NAMESPACE.fullmatch(name):
            raise click.BadParameter(f"{name!r}: expected the name of a namespace")
    return tuple(dict.fromkeys(given))


_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": PROGRAM.upper()}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Progressive delivery for configuration, native to Kubernetes.

    Every option can also be set in the environment, for example CONFIGREGISTRY_PROBE_PORT=9091.
    """


def _urls(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Each URL once, and none that cannot be asked."""
    for url in given:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise click.BadParameter(f"{url!r}: expected http:// or https:// and an address")
    return tuple(dict.fromkeys(given))


def _service(_context: click.Context, _option: click.Parameter, given: str) -> str:
    """A name that a Service can have."""
    namespace, slash, name = given.partition("/")
    if given and not (slash and _NAMESPACE.fullmatch(namespace) and _NAMESPACE.fullmatch(name)):
        raise click.BadParameter(f"{given!r}: expected NAMESPACE/NAME")
    return given


def _object(_context: click.Context, _option: click.Parameter, given: str) -> str:
    """Namespace and name of an object whose name may have dots."""
    namespace, slash, name = given.partition("/")
    if given and not (slash and _NAMESPACE.fullmatch(namespace) and _NAME.fullmatch(name)):
        raise click.BadParameter(f"{given!r}: expected NAMESPACE/NAME")
    return given


def _name(_context: click.Context, _option: click.Parameter, given: str) -> str:
    """A name that an object can have."""
    if given and not _NAME.fullmatch(given):
        raise click.BadParameter(f"{given!r}: expected the name of an object")
    return given


def _seconds(_context: click.Context, option: click.Parameter, given: str) -> float:
    """A duration such as 30s, 5m or 1h30m."""
    return parse_duration(given, option.opts[0])


_FILE = click.Path(exists=True, dir_okay=False)
Command = Callable[..., int]


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, told in this order by --help."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


_COMMON = _options(
    click.option(
        "--kubeconfig", type=click.Path(dir_okay=False), help="Default: KUBECONFIG, ~/.kube/config, or the pod."
    ),
    click.option("--context", help="Context of the kubeconfig. Default: its current one."),
    click.option(
        "--namespace",
        "-n",
        "namespaces",
        multiple=True,
        callback=_namespaces,
        help="Only this namespace; repeatable. Default: all.",
    ),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--probe-port",
        type=click.IntRange(0, 65535),
        default=8081,
        show_default=True,
        help="Port of /livez, /readyz and /metrics.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["auto", "json", "text"]),
        default="auto",
        show_default=True,
        help="auto: text on a terminal, else json.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
        help="The least that is told.",
    ),
    click.option("--env", default="", help="Value of the label env of metrics."),
    click.option("--cluster", default="", help="Value of the label cluster of metrics."),
    click.option(
        "--consistency-interval",
        default="5m",
        show_default=True,
        callback=_seconds,
        metavar="DURATION",
        help="Compare memory with the API server so often, and put right what differs; 0s: never.",
    ),
    click.option(
        "--registry-metrics/--no-registry-metrics",
        default=True,
        show_default=True,
        help="Metrics for each registry, or only sums.",
    ),
)
_SERVING = _options(
    click.option(
        "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port of the HTTP API."
    ),
    click.option(
        "--auth",
        type=click.Choice(["none", "kubernetes"]),
        default="none",
        show_default=True,
        help="kubernetes: bearer tokens and rights, asked of the API server.",
    ),
    click.option(
        "--allow-unauthenticated",
        is_flag=True,
        help="Allow --auth none on an address that others reach.",
    ),
    click.option(
        "--auth-grace",
        default="24h",
        show_default=True,
        callback=_seconds,
        metavar="DURATION",
        help="Let in who was known for so long while the API server does not answer.",
    ),
    click.option("--tls-certificate", type=_FILE, help="PEM file of the certificate and its chain; reloaded."),
    click.option("--tls-key", type=_FILE, help="PEM file of its key."),
    click.option(
        "--hot-keys/--no-hot-keys",
        default=False,
        show_default=True,
        help="Observe the rate of each key, and shed one that is asked for too often.",
    ),
)
_DECIDING = _options(
    click.option(
        "--unused-after",
        default="2160h",
        show_default="2160h, which are 90 days",
        callback=_seconds,
        metavar="DURATION",
        help="Tell of a registry as unused that nobody has read for so long.",
    ),
    click.option(
        "--leader-election/--no-leader-election",
        default=True,
        show_default=True,
        help="Decide only while holding a Lease. Without it there must be one process alone.",
    ),
    click.option(
        "--lease",
        default="",
        metavar="NAMESPACE/NAME",
        callback=_object,
        show_default="configregistry in the pod's namespace, or the first --namespace, or default",
        help="The Lease; processes that look after the same namespaces must name the same.",
    ),
)
_REPLICAS = _options(
    click.option(
        "--replica",
        "replicas",
        multiple=True,
        metavar="URL",
        callback=_urls,
        help="A replica of `serve` to ask for its consumers; repeatable.",
    ),
    click.option(
        "--replica-service",
        default="",
        metavar="NAMESPACE/NAME",
        callback=_service,
        help="The Service whose pods are to be asked; its port is named http.",
    ),
    click.option("--replica-token-file", type=_FILE, help="Bearer token for them; read again when it changes."),
    click.option("--replica-ca-file", type=_FILE, help="Trust these certificates when asking over https."),
)

_WEBHOOK = _options(
    click.option(
        "--webhook-port",
        type=click.IntRange(0, 65535),
        default=0,
        show_default=True,
        help="Port of the admission webhook; 0: none.",
    ),
    click.option("--webhook-host", default="127.0.0.1", show_default=True, help="Address that it listens on."),
    click.option("--webhook-certificate", type=_FILE, help="PEM file of its certificate (cert-manager's); reloaded."),
    click.option("--webhook-key", type=_FILE, help="PEM file of its key."),
    click.option(
        "--webhook-secret",
        default="",
        metavar="NAMESPACE/NAME",
        callback=_object,
        help="Without files: the Secret of the certificate that it makes and renews itself.",
    ),
    click.option(
        "--webhook-configuration",
        default="",
        metavar="NAME",
        callback=_name,
        help="Without files: the ValidatingWebhookConfiguration that is told to trust it.",
    ),
    click.option(
        "--webhook-service",
        default="",
        metavar="NAMESPACE/NAME",
        callback=_service,
        help="Without files: the Service that API servers call it by.",
    ),
)


@cli.command("run", context_settings=CONTEXT)
@_SERVING
@_DECIDING
@_WEBHOOK
@_COMMON
def run_command(**options: Any) -> int:
    """Control and serve, both in this process, until SIGTERM or SIGINT.

    Follows the ConfigRegistry objects of the cluster, rolls out their versions and serves them over HTTP.
    """
    return _main(**options)


@cli.command("controller", context_settings=CONTEXT)
@_DECIDING
@_REPLICAS
@_WEBHOOK
@_COMMON
def controller_command(**options: Any) -> int:
    """Control only: validate, record and roll out versions, until SIGTERM or SIGINT.

    Replicas of `configregistry serve` follow what it decides.
    """
    return _main(serves=False, **options)


@cli.command("serve", context_settings=CONTEXT)
@_SERVING
@_COMMON
def serve_command(**options: Any) -> int:
    """Serve only: a replica that follows what a controller decides, until SIGTERM or SIGINT.

    Run as many as reads need; consumers may ask any of them.
    """
    return _main(decides=False, **options)


WEBHOOK_NEEDS_PORT = (
    "webhook_service",
    "webhook_secret",
    "webhook_configuration",
    "webhook_certificate",
    "webhook_key",
)


def _main(host: str, log_format: str, log_level: str, allow_unauthenticated: bool = False, **options: Any) -> int:
    if options.get("auth") == "none" and not allow_unauthenticated and not _is_loopback(host):
        raise UsageError(
            f"--host {host}: expected a loopback address with --auth none: choose --auth kubernetes, "
            "or --allow-unauthenticated to serve anybody"
        )
    if (options.get("tls_certificate") is None) != (options.get("tls_key") is None):
        raise UsageError("--tls-certificate and --tls-key: expected both or neither")
    if options.get("webhook_port"):
        _check_webhook(options)
    elif given := [name for name in WEBHOOK_NEEDS_PORT if options.get(name)]:
        raise UsageError(f"--{given[0].replace('_', '-')}: expected --webhook-port beside it")
    if options.get("replicas") and options.get("replica_service"):
        raise UsageError("--replica and --replica-service: expected one of the two")
    logs.configure(log_format, log_level)
    failpoints.arm(os.environ)
    # Imported late: `--help` and `completion` must not pay for a Kubernetes client (0.6 s, 56 MiB).
    from configregistry.app import main  # noqa: PLC0415

    return main(Settings(host=host, log_format=log_format, log_level=log_level, **options))


def _check_webhook(options: Mapping[str, Any]) -> None:
    files = options["webhook_certificate"], options["webhook_key"]
    own = options["webhook_secret"], options["webhook_configuration"]
    if any(files) and not all(files):
        raise UsageError("--webhook-certificate and --webhook-key: expected both or neither")
    if any(files) and any(own):
        raise UsageError("--webhook-certificate and --webhook-secret: expected one of the two ways")
    if not any(files) and not all(own):
        raise UsageError(
            "--webhook-port: expected --webhook-secret and --webhook-configuration, or --webhook-certificate and "
            "--webhook-key, beside it"
        )
    if not any(files) and not options["webhook_service"] and not _is_address(options["webhook_host"]):
        raise UsageError("--webhook-service: expected the Service that API servers call the webhook by")


def _is_address(host: str) -> bool:
    """Whether it is the address of one machine, which a certificate can be for."""
    try:
        return not ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash: source <(configregistry completion bash)
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())


if __name__ == "__main__":
    sys.exit(run())
