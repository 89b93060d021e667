"""An agent has its Triton host what is wanted, and keeps it so when models and servers die."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from cascade_models.agent import hosting
from cascade_models.agent.hosting import Hosting
from cascade_models.agent.server import ServerFailed
from cascade_models.agent.steps import Host, Phase
from cascade_models.agent.triton_http import InferenceCounts, Parameters, TritonError, TritonSilent
from cascade_models.agent.wanted import WantedHosts
from cascade_models.manifest import read_hosts
from support.agent import host_entries
from support.triton import HEAVY, LIGHT
from support.waiting import eventually


class FakeServer:
    """A server that counts an answer at every look, unless the model is broken; it is its own client."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.client = self
        self.loaded: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.refused: dict[str, str] = {}
        self.hung = False
        self.misses = 0
        self.answers: Counter[str] = Counter()
        self.proofs: list[Parameters] = []
        self.grace_s: float | None = None
        self.lost: set[str] = set()

    async def alive(self) -> bool:
        return not self.hung

    async def load(self, model: str) -> None:
        self.calls.append(("load", model))
        if model in self.refused:
            raise TritonError(self.refused[model])
        if model in self.lost:
            await asyncio.Event().wait()
        self.broken.discard(model)
        self.loaded.append(model)

    async def unload(self, model: str) -> None:
        self.calls.append(("unload", model))

    async def gone(self, model: str) -> None:
        self.loaded.remove(model)

    async def counts(self, model: str) -> InferenceCounts:
        missed, self.misses = self.misses > 0, max(0, self.misses - 1)
        if self.hung or missed:
            raise TritonSilent("no answer within 5 s")
        self.answers[model] += model not in self.broken
        return InferenceCounts(self.answers[model], int(model in self.broken))

    async def draw(self, model: str, parameters: Parameters, *, timeout_s: float) -> None:
        self.proofs.append(parameters)
        if model in self.broken:
            raise TritonError("stub process is not healthy")

    def runs(self, model: str) -> bool:
        return model not in self.lost

    def check_running(self) -> None:
        if self.ended.done():
            raise ServerFailed("its server ended (killed by SIGKILL)")

    async def end(self, *, grace_s: float) -> None:
        self.grace_s = grace_s


class Worker:
    """An agent's heart on fake servers."""

    def __init__(self) -> None:
        self.servers: list[FakeServer] = []
        self.start_error: str | None = None
        self.rendered: list[tuple[set[str], set[str]]] = []
        self.said: list[str] = []
        self.hosting = Hosting(
            start_server=self.start_server, render=self.render, say=self.said.append, exit_timeout_s=7.0
        )

    async def start_server(self) -> FakeServer:
        if self.start_error:
            raise ServerFailed(self.start_error)
        self.servers.append(FakeServer(f"127.0.0.1:{9000 + len(self.servers)}"))
        return self.servers[-1]

    def render(self, wanted: WantedHosts, there: Iterable[str]) -> None:
        self.rendered.append((set(wanted.recipes), set(there)))

    @property
    def server(self) -> FakeServer:
        return self.servers[-1]

    def want(self, *variants: str, room: bool = True) -> None:
        self.hosting.want(WantedHosts.of(read_hosts(host_entries(*variants), "variants"), room=room))

    def hosts(self) -> dict[str, Host]:
        return dict(self.hosting.report().hosts)

    async def until(self, **phases: Phase) -> None:
        """Wait until exactly these are hosted."""
        names = {"light": LIGHT, "heavy": HEAVY}
        wanted = {names[name]: phase for name, phase in phases.items()}
        await eventually(
            lambda: {model: host.phase for model, host in self.hosts().items()} == wanted, what=f"{phases}"
        )


@asynccontextmanager
async def worker() -> AsyncIterator[Worker]:
    w = Worker()
    running = asyncio.create_task(w.hosting.run())
    try:
        yield w
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(hosting, "SETTLE_S", 0.01)
    monkeypatch.setattr(hosting, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(hosting, "LOST_AFTER_S", 0.05)


async def test_both_are_hosted_and_prove_themselves_by_the_settings_of_their_variants() -> None:
    async with worker() as w:
        w.want("shapes-light", "shapes-heavy")
        await w.until(light=Phase.READY, heavy=Phase.READY)
        assert {"steps": 2} in w.server.proofs
        assert {"steps": 24} in w.server.proofs
        assert w.hosting.report().endpoint == w.server.endpoint


async def test_a_change_of_mind_loads_before_it_unloads() -> None:
    async with worker() as w:
        w.want("shapes-light")
        await w.until(light=Phase.READY)
        w.want("shapes-heavy")
        assert w.rendered[-1] == ({HEAVY}, {LIGHT}), "what is still there is kept"
        await w.until(heavy=Phase.READY)
        assert w.server.calls == [("load", LIGHT), ("load", HEAVY), ("unload", LIGHT)]
        assert w.rendered[-1] == ({HEAVY}, {HEAVY})
        w.want("shapes-light", room=False)
        await w.until(light=Phase.READY)
        assert w.server.calls[3:] == [("unload", HEAVY), ("load", LIGHT)]


async def test_the_same_again_changes_nothing() -> None:
    async with worker() as w:
        w.want("shapes-light")
        await w.until(light=Phase.READY)
        before = w.hosts()
        w.want("shapes-light")
        seen = w.server.answers[LIGHT]
        await eventually(lambda: w.server.answers[LIGHT] > seen + 2, what="more looks")
        assert w.hosts() == before
        assert len(w.server.calls) == 1


async def test_a_model_that_breaks_is_loaded_anew_and_the_other_is_left_alone() -> None:
    async with worker() as w:
        w.want("shapes-light", "shapes-heavy")
        await w.until(light=Phase.READY, heavy=Phase.READY)
        before, calls = w.hosts()[HEAVY], len(w.server.calls)
        w.server.broken.add(LIGHT)
        await eventually(lambda: len(w.server.calls) == calls + 2, what="it to be loaded again")
        await w.until(light=Phase.READY, heavy=Phase.READY)
        assert w.server.calls[calls:] == [("unload", LIGHT), ("load", LIGHT)]
        assert w.hosts()[HEAVY] == before
        assert any("stub process is not healthy" in line for line in w.said)


async def test_a_model_that_cannot_be_loaded_has_failed_by_message_until_it_can() -> None:
    async with worker() as w:
        await eventually(lambda: w.servers, what="a server")
        w.server.refused[HEAVY] = "CUDA out of memory. Tried to allocate 2 GiB"
        w.want("shapes-light", "shapes-heavy")
        await w.until(light=Phase.READY, heavy=Phase.FAILED)
        assert "host fewer weights (CUDA out of memory" in w.hosts()[HEAVY].message
        await eventually(lambda: w.hosts()[HEAVY].failures > 1, what="a second try")
        del w.server.refused[HEAVY]
        await w.until(light=Phase.READY, heavy=Phase.READY)
        assert (w.hosts()[HEAVY].message, w.hosts()[HEAVY].failures) == ("", 0)
        assert len(w.servers) == 1


async def test_a_dead_server_is_replaced_and_hosts_the_same() -> None:
    async with worker() as w:
        w.want("shapes-light")
        await w.until(light=Phase.READY)
        first = w.server
        first.ended.set_result(-9)
        await eventually(lambda: len(w.servers) == 2, what="a second server")
        await w.until(light=Phase.READY)
        assert first.grace_s == 0
        assert w.hosting.report().endpoint == w.server.endpoint != first.endpoint


async def test_a_server_that_hangs_is_replaced_and_one_that_misses_a_look_is_kept() -> None:
    async with worker() as w:
        w.want("shapes-light")
        await w.until(light=Phase.READY)
        w.server.misses = 1
        await eventually(lambda: w.server.misses == 0, what="the look that it misses")
        seen = w.server.answers[LIGHT]
        await eventually(lambda: w.server.answers[LIGHT] > seen + 1, what="more looks")
        assert len(w.servers) == 1
        w.server.hung = True
        await eventually(lambda: len(w.servers) == 2, what="a second server")
        await w.until(light=Phase.READY)


async def test_a_server_that_does_not_start_is_told_and_tried_again() -> None:
    async with worker() as w:
        await eventually(lambda: w.servers, what="a server")
        w.start_error = "its server did not start (exit status 1)"
        w.server.ended.set_result(1)
        await eventually(lambda: w.hosting.report().failures > 2, what="several tries")
        assert w.hosting.report().problem == w.start_error
        assert w.hosting.report().endpoint is None
        w.start_error = None
        w.want("shapes-light")
        await w.until(light=Phase.READY)
        assert w.hosting.report().problem == ""


async def test_a_load_of_which_the_server_never_tells_the_end_costs_the_server() -> None:
    async with worker() as w:
        await eventually(lambda: w.servers, what="a server")
        w.server.lost.add(HEAVY)
        w.want("shapes-light", "shapes-heavy")
        await eventually(lambda: len(w.servers) == 2, what="a second server")
        await w.until(light=Phase.READY, heavy=Phase.READY)
        assert any("ended while it was being loaded" in line for line in w.said)


async def test_whoever_waits_hears_of_a_change_and_of_none_after_a_while() -> None:
    async with worker() as w:
        w.want("shapes-light")
        await w.until(light=Phase.READY)
        number = w.hosting.report().number
        assert (await w.hosting.report_since(number, timeout_s=0.01)).number == number
        waiting = asyncio.create_task(w.hosting.report_since(number, timeout_s=60))
        await asyncio.sleep(0)
        w.want("shapes-light", "shapes-heavy")
        assert (await waiting).number > number


async def test_told_to_end_it_gives_its_server_time() -> None:
    async with worker() as w:
        await eventually(lambda: w.servers, what="a server")
    assert w.server.grace_s == 7.0
