"""The command's root. Verbs are imported when they are used: the proxy must not pay for the control plane."""

from __future__ import annotations

import importlib

import click

#: Verb -> what it does, for `--help` without importing any of them.
VERBS = {
    "proxy": "Run the data plane on an Envoy v3 bootstrap file.",
    "control": "Run the control plane on folders of YAML, or on a Kubernetes API server.",
    "ca": "Show and rotate the certificate authority.",
    "agent": "Serve a workload's key and certificate to a real Envoy.",
    "capture": "Lead a workload's connections through its proxy.",
    "proxy-status": "Show what each proxy was sent, has taken, and runs on all of its workers.",
    "proxy-config": "Show what a proxy runs on: listeners, routes, clusters, endpoints, secrets.",
    "analyze": "Find what is wrong, or probably not meant, with resources in files.",
    "describe": "Show what applies to a service, a workload or a gateway.",
    "stat": "Show how much, how well and how fast each service answers, now.",
    "tap": "Show requests as they end, live.",
    "dashboards": "Write out Grafana's dashboards and Prometheus's alert rules.",
    "explain": "Explain what becomes of a request, and why.",
    "filter": "Write, check, time and compile filters.",
    "bench": "Measure how fast and how late a server answers.",
    "run": "Run a command with a sidecar.",
    "inject": "Give the pods in a manifest sidecars.",
    "install": "Install the mesh into a Kubernetes cluster.",
    "uninstall": "Remove the mesh from a Kubernetes cluster.",
    "policy": "Write the mesh's policies as rules of the network below it.",
    "pod": "Run the proxy of a pod, as its environment describes it.",
    "up": "Run a mesh of plain processes on this machine.",
    "version": "Show the versions of both planes.",
}


class LazyGroup(click.Group):
    """A group whose commands are modules of `pymesh.cli`, each with a `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"pymesh.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A service mesh: a Rust data plane, a Python control plane, filters in Python."""
