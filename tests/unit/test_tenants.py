"""Who may ask a router, how often, and what happens when the file that says so changes."""

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

from cascade_api.reasons import Refusal
from cascade_router.requests import Refused
from cascade_router.tenants import RELOAD_S, Bucket, Tenants, TenantsError
from support.waiting import StoppedClock


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write(path: Path, *tenants: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"tenants": list(tenants)}))
    # Two writes within the resolution of the file system's clock are two versions all the same.
    os.utime(path, (next(_seconds), next(_seconds)))
    return path


_seconds = itertools.count(1_700_000_000)
STUDIO = {"name": "studio", "keys": [digest("secret")], "certificates": ["studio.example"]}


def test_without_a_file_everybody_may_ask() -> None:
    tenants = Tenants(None, clock=StoppedClock())
    assert tenants.identify(authorization=None) == ""
    tenants.admit("")


def test_a_key_or_a_certificate_names_the_tenant(tmp_path: Path) -> None:
    tenants = Tenants(write(tmp_path / "t.yaml", STUDIO), clock=StoppedClock())
    assert tenants.identify(authorization="Bearer secret") == "studio"
    assert tenants.identify(authorization="bearer  secret ") == "studio"
    assert tenants.identify(authorization=None, certificate_names=["x", "studio.example"]) == "studio"


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer ", "Bearer Secret", "Basic secret", "secret", digest("secret")]
)
def test_anybody_else_is_refused(tmp_path: Path, authorization: str | None) -> None:
    tenants = Tenants(write(tmp_path / "t.yaml", STUDIO), clock=StoppedClock())
    with pytest.raises(Refused, match="authorization: ") as refused:
        tenants.identify(authorization=authorization, certificate_names=["other"])
    assert refused.value.reason is Refusal.UNAUTHENTICATED


def test_a_changed_file_counts_within_a_second_and_a_broken_one_does_not(tmp_path: Path) -> None:
    clock, path = StoppedClock(), tmp_path / "t.yaml"
    tenants = Tenants(write(path, STUDIO), clock=clock)
    write(path, {**STUDIO, "keys": [digest("new")]})
    assert tenants.identify(authorization="Bearer secret") == "studio"
    clock.now += RELOAD_S
    assert tenants.identify(authorization="Bearer new") == "studio"
    with pytest.raises(Refused):
        tenants.identify(authorization="Bearer secret")
    path.write_text("tenants: [")
    clock.now += RELOAD_S
    assert tenants.identify(authorization="Bearer new") == "studio"
    path.unlink()
    clock.now += RELOAD_S
    assert tenants.identify(authorization="Bearer new") == "studio"


def test_a_tenant_above_its_rate_hears_when_to_come_back(tmp_path: Path) -> None:
    clock, path = StoppedClock(), tmp_path / "t.yaml"
    limited = {**STUDIO, "requestsPerSecond": 2, "burst": 3}
    tenants = Tenants(write(path, limited, {"name": "other"}), clock=clock)
    for _ in range(3):
        tenants.admit("studio")
    with pytest.raises(Refused, match="'studio' asks for more than 2 images a second") as refused:
        tenants.admit("studio")
    assert refused.value.reason is Refusal.RATE_LIMITED
    assert refused.value.retry_after_s == pytest.approx(0.5)
    tenants.admit("other")
    clock.now += RELOAD_S / 2
    tenants.admit("studio")
    # A file that is read again fills no bucket.
    write(path, limited)
    clock.now += RELOAD_S / 2
    tenants.identify(authorization="Bearer secret")
    tenants.admit("studio")
    with pytest.raises(Refused):
        tenants.admit("studio")


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
        Tenants(path, clock=StoppedClock())
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
