"""Who may use a router and how often, and what happens when the file of tenants changes."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from cascade_api.reasons import Refusal
from cascade_router.rates import Bucket, SharedRates
from cascade_router.requests import RequestRefused
from cascade_router.tenants import RELOAD_S, Tenants, TenantsError
from support.ports import free_port
from support.waiting import StoppedClock


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write(path: Path, *tenants: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"tenants": list(tenants)}))
    # Two writes within the resolution of the file system's clock are two versions all the same.
    os.utime(path, (next(_seconds), next(_seconds)))
    return path


_seconds = itertools.count(1_700_000_000)


def tenants_of(path: Path | None, clock: StoppedClock | None = None) -> Tenants:
    """Tenants of a router whose Redis is away: it grants by itself."""
    clock = clock or StoppedClock()
    return Tenants(path, rates=SharedRates(Redis(port=free_port()), clock=clock), clock=clock)


STUDIO = {"name": "studio", "keys": [digest("secret")], "certificates": ["studio.example"]}


async def test_without_a_file_everybody_may_ask() -> None:
    tenants = tenants_of(None)
    assert tenants.identify(authorization=None) == ""
    await tenants.take_images("")


def test_a_key_or_a_certificate_names_the_tenant(tmp_path: Path) -> None:
    tenants = tenants_of(write(tmp_path / "t.yaml", STUDIO))
    assert tenants.identify(authorization="Bearer secret") == "studio"
    assert tenants.identify(authorization="bearer  secret ") == "studio"
    assert tenants.identify(authorization=None, certificate_names=["x", "studio.example"]) == "studio"


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer ", "Bearer Secret", "Basic secret", "secret", digest("secret")]
)
def test_anybody_else_is_refused(tmp_path: Path, authorization: str | None) -> None:
    tenants = tenants_of(write(tmp_path / "t.yaml", STUDIO))
    with pytest.raises(RequestRefused, match="authorization: ") as refused:
        tenants.identify(authorization=authorization, certificate_names=["other"])
    assert refused.value.reason is Refusal.UNAUTHENTICATED


def test_a_changed_file_counts_within_a_second_and_a_broken_one_does_not(tmp_path: Path) -> None:
    clock, path = StoppedClock(), tmp_path / "t.yaml"
    tenants = tenants_of(write(path, STUDIO), clock)
    write(path, {**STUDIO, "keys": [digest("new")]})
    assert tenants.identify(authorization="Bearer secret") == "studio"
    clock.now += RELOAD_S
    assert tenants.identify(authorization="Bearer new") == "studio"
    with pytest.raises(RequestRefused):
        tenants.identify(authorization="Bearer secret")
    path.write_text("tenants: [")
    clock.now += RELOAD_S
    assert tenants.identify(authorization="Bearer new") == "studio"
    path.unlink()
    clock.now += RELOAD_S
    assert tenants.identify(authorization="Bearer new") == "studio"


async def test_a_tenant_above_its_rate_hears_when_to_come_back(tmp_path: Path) -> None:
    clock, path = StoppedClock(), tmp_path / "t.yaml"
    limited = {**STUDIO, "requestsPerSecond": 2, "burst": 3}
    tenants = tenants_of(write(path, limited, {"name": "other"}), clock)
    for _ in range(3):
        await tenants.take_images("studio")
    with pytest.raises(RequestRefused, match="'studio' asks for more than 2 images a second") as refused:
        await tenants.take_images("studio")
    assert refused.value.reason is Refusal.RATE_LIMITED
    assert refused.value.retry_after_s == pytest.approx(0.5)
    await tenants.take_images("other")
    clock.now += RELOAD_S / 2
    await tenants.take_images("studio")
    # A file that is read again fills no bucket.
    write(path, limited)
    clock.now += RELOAD_S / 2
    tenants.identify(authorization="Bearer secret")
    await tenants.take_images("studio")
    with pytest.raises(RequestRefused):
        await tenants.take_images("studio")


async def test_images_of_one_call_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    tenants = tenants_of(write(tmp_path / "t.yaml", {**STUDIO, "requestsPerSecond": 2, "burst": 3}))
    await tenants.take_images("studio", 2)
    with pytest.raises(RequestRefused) as refused:
        await tenants.take_images("studio", 2)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    await tenants.take_images("studio")
    with pytest.raises(RequestRefused, match="n: tenant 'studio' may ask for 3 images at once") as refused:
        await tenants.take_images("studio", images=4)
    assert refused.value.reason is Refusal.INVALID


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("tenants: [", "is not YAML"),
        ("[]", "valid dictionary"),
        ("tenants: [{name: A}]", "tenants.0.name"),
        ("tenants: [{name: a, keys: [secret]}]", "keys[0]: is not a SHA-256 digest"),
        ("tenants: [{name: a, burst: 0}]", "tenants.0.burst"),
        ("tenants: [{name: a, requestsPerSecond: .nan}]", "requestsPerSecond"),
        ("tenants: [{name: a, rate: 1}]", "tenants.0.rate"),
        ("tenants: [{name: a}, {name: a}]", "tenants[1].name: belongs to another tenant"),
    ],
)
def test_a_wrong_file_names_the_field_and_tells_no_secret(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(content)
    with pytest.raises(TenantsError) as error:
        tenants_of(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "secret" not in str(error.value).removeprefix(str(path))


@given(rate=st.floats(0.01, 1000), burst=st.floats(1, 100), gaps=st.lists(st.floats(0, 10), max_size=60))
def test_no_bucket_gives_more_than_its_burst_and_its_rate(rate: float, burst: float, gaps: list[float]) -> None:
    bucket, now, taken = Bucket(rate, burst), 0.0, 0
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        taken += wait == 0
        if wait:
            assert wait <= 1 / rate
    assert taken <= burst + rate * now + 1e-6
