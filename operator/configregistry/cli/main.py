"""The command line. It only reads flags and names errors; what a command does lives elsewhere.

Exit codes: 0 well, 1 refused or failed, 2 wrong usage, 3 timeout.
"""

from __future__ import annotations

import re
import sys
from ipaddress import ip_address

import click
from click.shell_completion import get_completion_class

from configregistry import __version__
from configregistry.errors import ConfigRegistryError, UsageError
from configregistry.settings import Settings
from configregistry.telemetry import logs

PROGRAM = "configregistry"


def run(arguments: list[str] | None = None) -> int:
    """Run one command; gives the exit code and has told any error on stderr."""
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
CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": PROGRAM.upper()}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Progressive delivery for configuration, native to Kubernetes.

    Every option can also be set in the environment, for example CONFIGREGISTRY_PROBE_PORT=9091.
    """


@cli.command("run", context_settings=CONTEXT)
@click.option("--kubeconfig", type=click.Path(dir_okay=False), help="Default: KUBECONFIG, ~/.kube/config, or the pod.")
@click.option("--context", help="Context of the kubeconfig. Default: its current one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port of the HTTP API.")
@click.option(
    "--probe-port",
    type=click.IntRange(0, 65535),
    default=8081,
    show_default=True,
    help="Port of /livez, /readyz and /metrics.",
)
@click.option("--namespace", "-n", "namespaces", multiple=True, help="Only this namespace; repeatable. Default: all.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="auto: text on a terminal, else json.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least that is told.",
)
@click.option("--env", default="", help="Value of the label env of metrics.")
@click.option("--cluster", default="", help="Value of the label cluster of metrics.")
@click.option(
    "--registry-metrics/--no-registry-metrics",
    default=True,
    show_default=True,
    help="Metrics for each registry, or only sums.",
)
@click.option(
    "--allow-unauthenticated",
    is_flag=True,
    help="Serve without authentication on an address that others reach.",
)
def run_command(host: str, log_format: str, log_level: str, allow_unauthenticated: bool, **options: object) -> int:
    """Control and serve, both in this process, until SIGTERM or SIGINT.

    Follows the ConfigRegistry objects of the cluster, rolls out their versions and serves them over HTTP.
    """
    if not allow_unauthenticated and not _is_loopback(host):
        raise UsageError(
            f"--host {host}: expected a loopback address: this version has no authentication yet; "
            "--allow-unauthenticated serves anyway"
        )
    logs.configure(log_format, log_level)
    # Imported late: `--help` and `completion` must not pay for a Kubernetes client (0.6 s, 56 MiB).
    from configregistry.app import main  # noqa: PLC0415

    return main(Settings(host=host, log_format=log_format, log_level=log_level, **options))  # type: ignore[arg-type]


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
