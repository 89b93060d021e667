"""Which replicas are trusted: one that fails gets no work until a probing inference succeeds (pure).

A replica is ``ejected`` by a failure, probed when its pause is over, and back after one success.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade_api.backoff import pause_s


@dataclass(slots=True)
class _Ejected:
    failures: int
    probe_at: float


class ReplicaHealth:
    """Health of the replicas of one cascade, by replica id."""

    def __init__(self) -> None:
        self._ejected: dict[str, _Ejected] = {}

    @property
    def ejected(self) -> frozenset[str]:
        return frozenset(self._ejected)

    def failed(self, replica_id: str, *, now: float) -> bool:
        """A request or a probe failed; returns whether the replica was trusted until then."""
        known = self._ejected.get(replica_id)
        if known is None:
            self._ejected[replica_id] = _Ejected(1, now + pause_s(1))
            return True
        if now >= known.probe_at:
            # Requests that were in flight when the replica went count once, not one by one.
            known.failures += 1
            known.probe_at = now + pause_s(known.failures)
        return False

    def succeeded(self, replica_id: str) -> bool:
        """A request or a probe succeeded; returns whether the replica comes back by it."""
        return self._ejected.pop(replica_id, None) is not None

    def keep(self, replica_ids: set[str]) -> None:
        """Forget replicas that the plan no longer has."""
        for gone in set(self._ejected) - replica_ids:
            del self._ejected[gone]

    def due(self, *, now: float) -> list[str]:
        """Ejected replicas whose pause is over."""
        return [replica_id for replica_id, state in self._ejected.items() if now >= state.probe_at]
