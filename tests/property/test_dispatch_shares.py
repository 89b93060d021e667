"""The routers' shares of the credits, if each is on its own, add up to all of them, and no router gets none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cascade_router.queue.modes import share_of
from cascade_router.queue.operations import ReplicaSpec

capacities = st.lists(st.integers(0, 9), max_size=8)
routers = st.lists(st.text("abcdef", min_size=1, max_size=4), unique=True, min_size=1, max_size=6)


@given(capacities=capacities, routers=routers)
def test_shares_add_up_and_differ_by_one_credit_at_most(capacities: list[int], routers: list[str]) -> None:
    specs = [ReplicaSpec(f"r{n}", "host:1", capacity, 1.0) for n, capacity in enumerate(capacities)]
    shares = {router: share_of(specs, router=router, routers=routers) for router in routers}
    totals = [sum(spec.capacity for spec in share) for share in shares.values()]
    if sum(capacities) >= len(routers):
        for number, capacity in enumerate(capacities):
            assert sum(share[number].capacity for share in shares.values()) == capacity
        assert max(totals) - min(totals) <= 1
    if sum(capacities) > 0:
        assert min(totals) >= 1
    for share in shares.values():
        assert all(spec.capacity <= capacity for spec, capacity in zip(share, capacities, strict=True))


@given(capacities=capacities)
def test_a_router_alone_has_everything(capacities: list[int]) -> None:
    specs = tuple(ReplicaSpec(f"r{n}", "host:1", capacity, 1.0) for n, capacity in enumerate(capacities))
    assert share_of(specs, router="a", routers=["a"]) == specs
    assert share_of(specs, router="a", routers=[]) == specs
