"""The OpenAPI document of the router is right: bodies that fit it are accepted, others refused, answers fit it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from cascade_api.settings import RouterSettings
from cascade_router.serving import openapi
from support.redis import RedisServer
from support.router import RouterProcess, make_plan, publish
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.contract

EXAMPLES = 15
"""Of each operation."""
MANY = 250
"""The same in the slow test; operations without parameters have only one."""
CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            # 503 and 504 are answers, too: jobs and images that cannot be made in the time asked for.
            "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]},
            "positive_data_acceptance": {"expected-statuses": ["2xx", "400", "404", "409", "429", "503", "504"]},
        },
    }
)
SCHEMA = schemathesis.openapi.from_dict(openapi.document(RouterSettings()), config=CONFIG)


@pytest.fixture(scope="module")
def drawing_router(sleeper_triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    """A router whose models draw whatever they are told to."""
    directory = tmp_path_factory.mktemp("schema")
    redis_server = RedisServer(directory)
    redis_server.start()
    replicas = {variant: [sleeper_triton.endpoint] for variant in SECONDS}
    publish(redis_server, make_plan(replicas, execution_s=dict.fromkeys(SECONDS, 0.01)))
    router = RouterProcess(redis_server.url, directory)
    try:
        yield router.start().wait_ready()
    finally:
        router.stop()
        redis_server.kill()


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_answers_are_as_the_document_says(case: schemathesis.Case, drawing_router: RouterProcess) -> None:
    case.call_and_validate(base_url=drawing_router.http_url, timeout=PATIENCE_S)


_asked: list[str] = []


@pytest.mark.slow
@SCHEMA.parametrize()
@settings(max_examples=MANY, suppress_health_check=list(HealthCheck), deadline=None)
def test_many_answers_are_as_the_document_says(case: schemathesis.Case, drawing_router: RouterProcess) -> None:
    _asked.append(case.path)
    case.call_and_validate(base_url=drawing_router.http_url, timeout=PATIENCE_S)


@pytest.mark.slow
def test_these_were_more_than_2000() -> None:
    assert len(_asked) > 2000


def test_the_document_is_served_and_nothing_went_wrong_behind_it(drawing_router: RouterProcess) -> None:
    assert drawing_router.get("/openapi.json").json() == openapi.document(RouterSettings())
    reply = httpx.post(f"{drawing_router.http_url}/v1/images/generations", json={"prompt": "a cat"}, timeout=PATIENCE_S)
    assert reply.status_code == 200
    log = drawing_router.log.read_text()
    assert "Traceback" not in log
    assert "request failed" not in log
