"""What a worker's agent reports, and what it means for the worker. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cascade_api.worker_requests import weights_of_model

from .snapshot import HostState

FAILED_AFTER: Final = 3
"""After this many failures in a row, a server or its weights count as failed; they are still tried again."""
NOTHING: Final[Mapping[str, Any]] = {"variants": []}
"""What an agent is told that shall host nothing."""


class AgentFailed(Exception):
    """An agent ended, did not start, does not answer, or refuses what it is told; the message says how."""


class AgentRefused(AgentFailed):
    """An agent answers, but does not take what it is told."""


@dataclass(frozen=True)
class Hosted:
    """One model on a worker; ``state`` is loading, ready, unloading or failed, ``failures`` counts loads in a row.

    ``since_s`` is when it entered the state, in Unix seconds of the worker's clock.
    """

    state: str
    message: str
    failures: int
    since_s: float = 0.0


@dataclass(frozen=True)
class Report:
    """What an agent says. ``endpoint`` is None while it has no server; ``problem`` then says why."""

    number: int
    endpoint: str | None
    problem: str
    failures: int
    hosts: Mapping[str, Hosted]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Report:
        """The report in an agent's answer; raises AgentFailed if it is none."""
        try:
            hosts = {
                model: Hosted(host["state"], host["message"], host["failures"], host["since"])
                for model, host in answer["hosts"].items()
            }
            return cls(answer["number"], answer["endpoint"], answer["problem"], answer["failures"], hosts)
        except (AttributeError, KeyError, TypeError):
            raise AgentFailed("its agent gives an answer that cannot be read") from None


def host_states(wanted: Collection[str], report: Report | None) -> dict[str, HostState]:
    """The weights that a worker is to host, and then those that are still there, with their states.

    ``wanted`` are the digests that its agent is told; ``report`` is None while nothing is known of what is there.
    """
    hosts = {} if report is None or report.endpoint is None else report.hosts
    reported = {weights_of_model(model): host for model, host in hosts.items()}
    states = {digest: _state(reported.get(digest)) for digest in wanted}
    return states | {digest: HostState.UNLOADING for digest in reported if digest not in states}


def _state(host: Hosted | None) -> HostState:
    if host is not None and host.state == "ready":
        return HostState.READY
    return HostState.FAILED if host is not None and host.failures > FAILED_AFTER else HostState.LOADING
