"""Which replicas are trusted: one that fails gets no work until an inference on it succeeds (pure).

A failure ejects a replica. When its pause is over, it is probed with an inference. If that succeeds, the replica is
trusted again; if it fails, the next pause is longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade_api.backoff import pause_s


@dataclass(slots=True)
class _Ejected:
    failures: int
    probe_at: float


class ReplicaHealth:
    """The health of one cascade's replicas, by replica id."""

    def __init__(self) -> None:
        self._ejected: dict[str, _Ejected] = {}

    @property
    def ejected(self) -> frozenset[str]:
        return frozenset(self._ejected)

    def failed(self, replica_id: str, *, now: float) -> bool:
        """Note that a request or a probe failed; returns whether the replica was trusted until then."""
        known = self._ejected.get(replica_id)
        if known is None:
            self._ejected[replica_id] = _Ejected(1, now + pause_s(1))
            return True
        if now >= known.probe_at:
            # All requests that were in flight when the replica failed count as one failure.
            known.failures += 1
            known.probe_at = now + pause_s(known.failures)
        return False

    def succeeded(self, replica_id: str) -> bool:
        """Note that a request or a probe succeeded; returns whether the replica had been ejected until then."""
        return self._ejected.pop(replica_id, None) is not None

    def keep(self, replica_ids: set[str]) -> None:
        """Forget replicas that the plan no longer has."""
        for gone in set(self._ejected) - replica_ids:
            del self._ejected[gone]

    def due(self, *, now: float) -> list[str]:
        """Ejected replicas whose pause is over."""
        return [replica_id for replica_id, state in self._ejected.items() if now >= state.probe_at]
