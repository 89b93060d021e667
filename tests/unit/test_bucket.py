"""Wrong settings of a bucket are named at the start, and a bucket that fails is tried by one request at a time."""

from __future__ import annotations

import pytest

from cascade_api.failures import CommandFailed
from cascade_api.reasons import Refusal, Route
from cascade_api.settings import RouterSettings, from_environment
from cascade_router.bucket import AGAIN_S, Bucket
from cascade_router.pools.clients import Prompt, TritonImage
from cascade_router.requests import GenerateRequest, MadeImage, Receipt, RequestRefused
from support.ports import free_port

WANTED = GenerateRequest(id="a", model="shapes", prompt=Prompt("a cat"), receipt=Receipt(at=0.0), stored=True)
MADE = MadeImage("a", "default/shapes", TritonImage(1, 1, element=b"\0\0\0\0x"), "light", Route.LIGHT, 0.0, None, 0.1)


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("BUCKET", "s3://images", "3 to 63 letters"),
        ("BUCKET_ENDPOINT", "s3.example:9000", "the address of a server"),
        ("BUCKET_ENDPOINT", "https://s3.example/images", "without the bucket"),
        ("BUCKET_PUBLIC_ENDPOINT", "https://user:password@s3.example", "the address of a server"),
        ("BUCKET_PREFIX", "/generated/../", "for example generated/"),
        ("BUCKET_LINK_S", "1000000", "less than or equal to 604800"),
        ("BUCKET_TIMEOUT_S", "0", "greater than 0"),
    ],
)
def test_a_wrong_setting_is_named_with_the_fix(
    variable: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CASCADE_ROUTER_{variable}", value)
    with pytest.raises(CommandFailed, match=f"setting CASCADE_ROUTER_{variable}: .*{why}") as refused:
        from_environment(RouterSettings)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "missing"),
    [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")],
)
def test_half_of_a_pair_of_keys_is_refused(given: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(missing, raising=False)
    monkeypatch.setenv(given, "hidden")
    with pytest.raises(CommandFailed, match=f"{missing}: is missing beside {given}") as refused:
        Bucket(RouterSettings(bucket="images"), clock=lambda: 0.0)
    assert "hidden" not in str(refused.value)


async def test_after_a_failure_one_request_at_a_time_tries_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "some")
    settings = RouterSettings(bucket="images", bucket_endpoint=f"http://127.0.0.1:{free_port()}", bucket_timeout_s=30)
    now = 100.0
    bucket = Bucket(settings, clock=lambda: now)

    def refused() -> bool:
        try:
            bucket.check([WANTED])
        except RequestRefused as why:
            return why.reason is Refusal.BUCKET_AWAY and (why.retry_after_s or 0) > 0
        return False

    assert [refused(), refused()] == [False, False]
    with pytest.raises(RequestRefused) as failed:
        await bucket.keep(WANTED, MADE, deadline=now + 1000)
    assert failed.value.reason is Refusal.BUCKET_AWAY
    assert refused()
    now += AGAIN_S
    assert [refused(), refused()] == [False, True]
    now += settings.bucket_timeout_s + AGAIN_S
    assert [refused(), refused()] == [False, True]


async def test_too_late_to_be_stored_is_the_deadline_and_not_the_bucket_s_fault() -> None:
    bucket = Bucket(RouterSettings(bucket="images", bucket_endpoint="http://127.0.0.1:9"), clock=lambda: 0.0)
    with pytest.raises(RequestRefused) as refused:
        await bucket.keep(WANTED, MADE, deadline=-1.0)
    assert refused.value.reason is Refusal.DEADLINE_EXCEEDED
    bucket.check([WANTED])


def test_a_router_without_a_bucket_serves_no_job_that_needs_one() -> None:
    with pytest.raises(RequestRefused, match="this router has no bucket"):
        Bucket(RouterSettings(), clock=lambda: 0.0).check([WANTED])
