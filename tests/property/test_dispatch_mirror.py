"""The Lua scripts in a real server do what the pure dispatcher does: every verdict, grant, drop, load and key."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cascade_api.names import CascadeRef, grants_channel
from cascade_router.queue.calls import BAND_SPAN, Calls, message_of, outcome_of, scripts
from cascade_router.queue.dispatch import Dispatcher
from cascade_router.queue.operations import (
    EnqueueTicket,
    Heartbeat,
    Operation,
    OperationResult,
    QueueTiming,
    Reap,
    ReleaseAndEnqueue,
    ReleaseCredit,
    ReplicaSpec,
    Restore,
    Sync,
    TicketDropped,
    TicketGranted,
    Withdraw,
    owner_of,
    ticket_of,
    work_of,
)
from support.redis import RedisServer
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.contract

ROUTERS = ["a", "b", "c"]
POOLS = ["light.cpu", "heavy.cpu"]
REPLICAS = ["r1", "r2", "r10", "R2"]
CLOCK = "local function now_ms() return tonumber(redis.call('GET', 'now')) end"
REF = CascadeRef("media", "portraits")

routers = st.sampled_from(ROUTERS)
pools = st.sampled_from(POOLS)
replica_ids = st.sampled_from(REPLICAS)
services = st.none() | st.floats(min_value=0, max_value=20)


class Mirror(RuleBasedStateMachine):
    """Runs each operation on both and compares all that can be seen."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.timing = QueueTiming()
        self.redis = self.server.client()
        self.redis.flushall()
        self.scripts = scripts(self.timing, clock=CLOCK)
        for script in self.scripts.values():
            self.redis.script_load(script.source)
        self.channels = {}
        for router in ROUTERS:
            channel = self.channels[router] = self.redis.pubsub(ignore_subscribe_messages=True)
            channel.subscribe(grants_channel(router))
            channel.get_message(timeout=PATIENCE_S)
        self.calls = Calls(REF)
        self.reference = Dispatcher(self.timing)
        self.now = 1_763_632_810_000
        self.generation = 1
        self.count = 0
        self.tickets: list[tuple[str, str]] = []
        for pool in POOLS:
            for router in ROUTERS[:2]:
                spec = ReplicaSpec("r1", "host:1", 2, 1.0)
                self.run(Sync(router, pool, self.generation, "least-wait", (spec,)))

    def teardown(self) -> None:
        for channel in self.channels.values():
            channel.close()
        self.redis.close()

    def run(self, operation: Operation) -> OperationResult:
        """Both answers must agree; returns the reference's."""
        self.redis.set("now", self.now)
        call = self.calls.of(operation)
        sha = self.scripts[call.script].sha
        mirrored = outcome_of(self.redis.evalsha(sha, len(call.keys), *call.keys, *call.arguments))  # type: ignore[arg-type]
        expected = self.reference.run(operation, now=self.now)
        own = operation.router
        assert mirrored.verdict == expected.verdict
        assert mirrored.grants == tuple(grant for grant in expected.grants if owner_of(grant.ticket) == own)
        assert mirrored.drops == tuple(drop for drop in expected.drops if owner_of(drop.ticket) == own)
        assert mirrored.missing == expected.missing
        assert mirrored.routers == expected.routers
        assert mirrored.loads.keys() == expected.loads.keys()
        for pool, load in expected.loads.items():
            assert mirrored.loads[pool].waiting == load.waiting
            assert mirrored.loads[pool].in_flight == load.in_flight
            assert mirrored.loads[pool].ahead == load.ahead
            assert math.isclose(mirrored.loads[pool].expected_wait_s, load.expected_wait_s, rel_tol=1e-9)
        for router in ROUTERS:
            told = [item for item in (*expected.grants, *expected.drops) if owner_of(item.ticket) == router != own]
            assert sorted(self._heard(router, len(told)), key=repr) == sorted(told, key=repr)
        return expected

    def _heard(self, router: str, count: int) -> list[TicketGranted | TicketDropped]:
        heard: list[TicketGranted | TicketDropped] = []
        while message := self.channels[router].get_message(timeout=PATIENCE_S if len(heard) < count else 0):
            item = message_of(message["data"], REF)
            assert item is not None
            heard.append(item)
        return heard

    @rule(ms=st.sampled_from([1, 10, 900, 1_100, 4_000, 5_100, 61_000]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(
        router=routers,
        pool=pools,
        step=st.integers(-1, 2),
        spread=st.sampled_from(["least-wait", "random"]),
        specs=st.lists(
            st.tuples(replica_ids, st.integers(0, 3), st.sampled_from([0.05, 1.3, 2.7])), unique_by=lambda s: s[0]
        ),
    )
    def plan_changes(self, router: str, pool: str, step: int, spread: Any, specs: list[tuple[str, int, float]]) -> None:
        replicas = tuple(ReplicaSpec(name, f"{name}:8001", capacity, s) for name, capacity, s in specs)
        self.run(Sync(router, pool, self.generation + step, spread, replicas))
        self.generation += max(step, 0)

    @rule(router=routers, pool=pools, capacity=st.integers(1, 3))
    def plan_serves_fully(self, router: str, pool: str, capacity: int) -> None:
        self.generation += 1
        specs = tuple(ReplicaSpec(name, f"{name}:8001", capacity, 1.0) for name in REPLICAS[:3])
        self.run(Sync(router, pool, self.generation, "least-wait", specs))

    def _enqueue(self, router: str, pool: str, band: int, remaining_ms: int, limit: int) -> EnqueueTicket:
        self.count += 1
        # a client's id may hold anything, and ties are settled by the order of bytes
        work = [1.0, 0.25, 2.25, 1e-9, 1e9][self.count % 5]
        ticket = ticket_of(["é|x", "Z@", "a"][self.count % 3], self.count, router, work=work)
        self.tickets.append((pool, ticket))
        return EnqueueTicket(router, pool, ticket, band, remaining_ms, limit)

    @rule(router=routers, pool=pools, band=st.integers(0, 7), remaining=st.integers(1, 8_000), limit=st.integers(0, 8))
    def enqueue(self, router: str, pool: str, band: int, remaining: int, limit: int) -> None:
        self.run(self._enqueue(router, pool, band, remaining, limit))

    @rule(router=routers, pool=pools, count=st.integers(2, 6))
    def burst(self, router: str, pool: str, count: int) -> None:
        for _ in range(count):
            self.run(self._enqueue(router, pool, 1, 6_000, 100))

    @rule(router=routers, pool=pools, band=st.integers(0, 7))
    def crowd_waits_too_long(self, router: str, pool: str, band: int) -> None:
        for _ in range(10):
            self.run(self._enqueue(router, pool, band, 5, 100))
        self.now += 5
        self.run(Reap(router, pool))

    def _held(self) -> list[tuple[str, str, str]]:
        return sorted(
            (pool.name, ticket, lease.replica_id)
            for pool in self.reference.pools.values()
            for ticket, lease in pool.leases.items()
        )

    def _release(self, data: st.DataObject) -> ReleaseCredit:
        pool, ticket, replica = data.draw(st.sampled_from(self._held()))
        if data.draw(st.integers(0, 9)) == 0:
            replica = data.draw(replica_ids)  # a lease that was reaped meanwhile, or never was
        service, failed = data.draw(services), data.draw(st.booleans())
        return ReleaseCredit(owner_of(ticket), pool, ticket, replica, service, data.draw(st.integers(1, 4_000)), failed)

    @precondition(lambda self: self._held())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.run(self._release(data))

    @precondition(lambda self: self._held())
    @rule(data=st.data(), pool=pools, band=st.integers(0, 3), limit=st.integers(0, 8))
    def exchange(self, data: st.DataObject, pool: str, band: int, limit: int) -> None:
        release = self._release(data)
        self.run(ReleaseAndEnqueue(release, self._enqueue(release.router, pool, band, 5_000, limit)))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        pool, ticket = data.draw(st.sampled_from(self.tickets))
        self.run(Withdraw(owner_of(ticket), pool, ticket))

    @rule(data=st.data(), router=routers, pool=pools)
    def heartbeat(self, data: st.DataObject, router: str, pool: str) -> None:
        held = [(ticket, replica) for name, ticket, replica in self._held() if name == pool]
        leases = [lease for lease in held if owner_of(lease[0]) == router]
        mine = [ticket for name, ticket in self.tickets if name == pool and owner_of(ticket) == router]
        leases = data.draw(st.lists(st.sampled_from(leases), unique=True)) if leases else []
        waiting = data.draw(st.lists(st.sampled_from(mine), unique=True, max_size=6)) if mine else []
        if data.draw(st.booleans()):
            leases.append((ticket_of("lost", 0, router), "r1"))
        outcome = self.run(Heartbeat(router, pool, tuple(leases), tuple(waiting)))
        for ticket in outcome.missing:
            if ticket in waiting and data.draw(st.booleans()):
                self.run(EnqueueTicket(router, pool, ticket, 0, 3_000, 2**31))

    @rule(data=st.data(), router=routers, pool=pools, replica=replica_ids)
    def restore(self, data: st.DataObject, router: str, pool: str, replica: str) -> None:
        mine = [ticket for name, ticket in self.tickets if name == pool and owner_of(ticket) == router]
        if mine:
            tickets = data.draw(st.lists(st.sampled_from(mine), max_size=3))
            self.run(Restore(router, pool, tuple((ticket, replica) for ticket in tickets)))

    @rule(router=routers, pool=pools)
    def reap(self, router: str, pool: str) -> None:
        self.run(Reap(router, pool))

    @invariant()
    def keys_mirror_the_state(self) -> None:
        assert dict(self.redis.zrange(REF.routers_key, 0, -1, withscores=True)) == self.reference.routers
        for pool in self.reference.pools.values():
            queue = self.redis.zrange(REF.queue_key(pool.name), 0, -1, withscores=True)
            assert [(t, int(s)) for t, s in queue] == [(t, band * BAND_SPAN + due) for band, due, t in pool.waiting]
            leases = dict(self.redis.zrange(REF.leases_key(pool.name), 0, -1, withscores=True))
            assert leases == {f"{lease.replica_id}|{ticket}": lease.expires for ticket, lease in pool.leases.items()}
            fields = self.redis.hgetall(REF.credits_key(pool.name))
            assert int(fields.get("work", 0)) == pool.waiting_work == sum(work_of(place[2]) for place in pool.waiting)
            kept = {name[2:] for name in fields if name.startswith("c:")}
            assert kept == pool.replicas.keys()
            for name, replica in pool.replicas.items():
                assert int(fields[f"c:{name}"]) == replica.capacity
                assert int(fields[f"u:{name}"]) == replica.used
                assert int(fields[f"l:{name}"]) == replica.load
                assert float(fields[f"s:{name}"]) == replica.service_s

    @invariant()
    def credits_are_the_leases(self) -> None:
        for pool in self.reference.pools.values():
            for replica in pool.replicas.values():
                held = [lease for lease in pool.leases.values() if lease.replica_id == replica.id]
                assert replica.used == len(held)
                tickets = [ticket for ticket, lease in pool.leases.items() if lease.replica_id == replica.id]
                assert replica.load == sum(map(work_of, tickets))

    @invariant()
    def every_key_has_a_time_to_live(self) -> None:
        for key in self.redis.scan_iter(f"{REF.prefix}*"):
            assert self.redis.pttl(key) > 0


@pytest.fixture
def machine(redis_server: RedisServer) -> type[Mirror]:
    Mirror.server = redis_server
    return Mirror


def test_scripts_do_what_the_reference_does(machine: type[Mirror]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
