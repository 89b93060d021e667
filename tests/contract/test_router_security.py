"""TLS, client certificates, API keys and rates of a real router, as clients that are not ours see them."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton
import trustme
import yaml
from PIL import Image
from tritonclient.utils import InferenceServerException

from support.ports import free_port
from support.redis import RedisServer
from support.router import EASY, HARD, RouterProcess, StartRouter, inputs_of, make_plan, publish
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

KEY = "a-key-of-the-studio"


@dataclass
class Files:
    """Certificates of an authority, and a file of tenants."""

    directory: Path
    authority: trustme.CA

    def write(self, name: str, certificate: trustme.LeafCert) -> tuple[str, str]:
        paths = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        paths[0].write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
        paths[1].write_bytes(certificate.private_key_pem.bytes())
        return str(paths[0]), str(paths[1])

    @property
    def authority_file(self) -> str:
        path = self.directory / "authority.pem"
        self.authority.cert_pem.write_to_path(path)
        return str(path)

    def tenants(self, **more: object) -> str:
        tenant = {"name": "studio", "keys": [hashlib.sha256(KEY.encode()).hexdigest()], **more}
        path = self.directory / "tenants.yaml"
        path.write_text(yaml.safe_dump({"tenants": [tenant]}))
        return str(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, trustme.CA())


@pytest.fixture
def endpoints(shared_triton: TritonServer) -> dict[str, list[str]]:
    return {variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")}


@contextmanager
def client_of(
    router: RouterProcess, files: Files, *, certificate: tuple[str, str] = ("", "")
) -> Iterator[triton.InferenceServerClient]:
    chain, key = (value or None for value in certificate)
    with triton.InferenceServerClient(
        router.grpc, ssl=True, root_certificates=files.authority_file, certificate_chain=chain, private_key=key
    ) as client:
        yield client


@contextmanager
def running(
    redis_server: RedisServer, endpoints: dict[str, list[str]], directory: Path, **settings: str
) -> Iterator[tuple[RouterProcess, str]]:
    """A router that is asked for its health over a plain address."""
    publish(redis_server, make_plan(endpoints))
    health = f"127.0.0.1:{free_port()}"
    router = RouterProcess(redis_server.url, directory, health_address=health, **settings)
    router.start(f"http://{health}")
    try:
        yield router, f"http://{health}"
    finally:
        router.stop()


def test_an_api_key_opens_both_protocols_and_its_absence_neither(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter, files: Files
) -> None:
    router = start_router(redis_server, make_plan(endpoints, overload="strict"), tenants_file=files.tenants())
    bearer = {"authorization": f"Bearer {KEY}"}
    assert router.ask(HARD, headers=bearer).route == "direct"
    assert router.post({"prompt": EASY}, headers=bearer).status_code == 200
    assert router.client.get_model_metadata("shapes", headers=bearer).name == "shapes"
    for headers in ({}, {"authorization": "Bearer guess"}):
        for call in (
            lambda headers=headers: router.ask(EASY, headers=headers),
            lambda headers=headers: router.client.get_model_metadata("shapes", headers=headers),
            lambda headers=headers: router.client.get_model_repository_index(headers=headers),
            lambda headers=headers: router.client.get_inference_statistics(headers=headers),
        ):
            with pytest.raises(InferenceServerException, match="authorization: ") as refused:
                call()
            assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        reply = router.post({"prompt": EASY}, headers=headers)
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert httpx.get(router.http_url + "/v1/models", headers=headers, timeout=PATIENCE_S).status_code == 401
    assert router.client.is_server_ready()
    assert router.get("/readyz").status_code == 200
    assert KEY not in router.log.read_text()


def test_what_is_no_protobuf_is_refused_after_the_question_who_asks(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter, files: Files
) -> None:
    router = start_router(redis_server, make_plan(endpoints), tenants_file=files.tenants())
    wanted = {"guess": grpc.StatusCode.UNAUTHENTICATED, KEY: grpc.StatusCode.INVALID_ARGUMENT}
    with grpc.insecure_channel(router.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        for key, code in wanted.items():
            options = {"metadata": [("authorization", f"Bearer {key}")], "timeout": PATIENCE_S}
            with pytest.raises(grpc.RpcError) as refused:
                infer(b"\xff", **options)
            assert refused.value.code() is code
            with pytest.raises(grpc.RpcError) as refused:
                list(stream(iter([b"\xff"]), **options))
            assert refused.value.code() is code
    assert "Traceback" not in router.log.read_text()


def test_a_tenant_above_its_rate_is_refused_with_a_time_to_come_back(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter, files: Files
) -> None:
    limited = files.tenants(requestsPerSecond=0.001, burst=2)
    router = start_router(redis_server, make_plan(endpoints), tenants_file=limited)
    bearer = {"authorization": f"Bearer {KEY}"}
    assert router.post({"prompt": EASY, "n": 2}, headers=bearer).status_code == 200
    reply = router.post({"prompt": EASY}, headers=bearer)
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "RateLimited")
    assert 500 < int(reply.headers["retry-after"]) <= 1000
    with pytest.raises(InferenceServerException, match=r"more than 0\.001 images a second") as refused:
        router.ask(EASY, headers=bearer)
    assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_tls_serves_both_protocols_and_a_renewed_certificate_needs_no_restart(
    redis_server: RedisServer, endpoints: dict[str, list[str]], tmp_path: Path, files: Files
) -> None:
    pair = files.write("router", files.authority.issue_cert("127.0.0.1"))
    with running(redis_server, endpoints, tmp_path, tls_certificate_file=pair[0], tls_key_file=pair[1]) as (router, _):
        with client_of(router, files) as client:
            assert client.infer("shapes", inputs_of(EASY)).as_numpy("image").shape == (32, 32, 3)
        url = router.http_url.replace("http://", "https://")
        trusting = ssl.create_default_context(cafile=files.authority_file)
        assert httpx.get(url + "/readyz", verify=trusting, timeout=PATIENCE_S).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(router.http_url + "/readyz")
        with grpc.insecure_channel(router.grpc) as channel, pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(timeout=1)

        files.authority = trustme.CA()
        files.write("router", files.authority.issue_cert("127.0.0.1"))
        trusting = ssl.create_default_context(cafile=files.authority_file)

        def renewed() -> bool:
            try:
                return httpx.get(url + "/readyz", verify=trusting, timeout=PATIENCE_S).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(renewed, what="the new certificate")
        with client_of(router, files) as client:
            assert client.is_server_ready()


def test_mutual_tls_names_the_tenant_by_its_certificate(
    redis_server: RedisServer, endpoints: dict[str, list[str]], tmp_path: Path, files: Files
) -> None:
    pair = files.write("router", files.authority.issue_cert("127.0.0.1"))
    studio = files.write("studio", files.authority.issue_cert("studio.example", common_name="studio.example"))
    stranger = files.write("stranger", files.authority.issue_cert("stranger.example"))
    forged = files.write("forged", trustme.CA().issue_cert("studio.example"))
    settings = {
        "tls_certificate_file": pair[0],
        "tls_key_file": pair[1],
        "tls_client_authority_file": files.authority_file,
        "tenants_file": files.tenants(certificates=["studio.example"]),
    }
    with running(redis_server, endpoints, tmp_path, **settings) as (router, health_url):
        with client_of(router, files, certificate=studio) as client:
            assert client.infer("shapes", inputs_of(EASY)).as_numpy("route") is not None
        with (
            client_of(router, files, certificate=stranger) as client,
            pytest.raises(InferenceServerException, match="authorization: ") as refused,
        ):
            client.infer("shapes", inputs_of(EASY))
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        for certificate in (("", ""), forged):
            with (
                client_of(router, files, certificate=certificate) as client,
                pytest.raises(InferenceServerException) as refused,
            ):
                client.infer("shapes", inputs_of(EASY), client_timeout=3)
            assert refused.value.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")
        assert httpx.get(health_url + "/readyz", timeout=PATIENCE_S).text == "ready\n"
        assert httpx.get(health_url + "/v1/models", timeout=PATIENCE_S).status_code == 404


def test_the_openai_package_gets_images_and_partial_images(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter, files: Files
) -> None:
    plan = make_plan(endpoints, direct=0, escalation=1)
    router = start_router(redis_server, plan, tenants_file=files.tenants())
    with openai.OpenAI(base_url=router.http_url + "/v1", api_key=KEY, max_retries=0) as client:
        images = client.images.generate(model="shapes", prompt=EASY, n=2, response_format="b64_json").data
        assert images is not None
        assert [picture(image.b64_json).shape for image in images] == [(32, 32, 3)] * 2
        events = list(client.images.generate(model="shapes", prompt=EASY, stream=True, partial_images=1))
        assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
        assert picture(events[1].b64_json).std() > 10
        with pytest.raises(openai.BadRequestError, match="did not understand 'purple'") as refused:
            client.images.generate(model="shapes", prompt="a purple dragon")
        assert (refused.value.param, refused.value.code) == ("prompt", "Invalid")
        with pytest.raises(openai.NotFoundError):
            client.images.generate(model="nothing", prompt=EASY)
    with (
        openai.OpenAI(base_url=router.http_url + "/v1", api_key="guess", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.images.generate(model="shapes", prompt=EASY)


def picture(encoded: str | None) -> np.ndarray:
    assert encoded is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls_certificate_file": "c.pem"}, "set both or neither"),
        ({"tls_client_authority_file": "ca.pem"}, "needs CASCADE_ROUTER_TLS_CERTIFICATE_FILE and"),
        ({"tls_certificate_file": "no.pem", "tls_key_file": "no.key"}, "no.key: cannot be read"),
        ({"tenants_file": "no.yaml"}, "no.yaml: cannot be read"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(
    redis_server: RedisServer, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    router = RouterProcess(redis_server.url, tmp_path, **settings)
    with pytest.raises(AssertionError, match=said):
        router.start()
    assert router.process is not None
    assert router.process.wait(PATIENCE_S) == 2
    assert "Traceback" not in router.log.read_text()


def test_the_command_line_is_let_in_with_certificates_and_a_key(
    redis_server: RedisServer, endpoints: dict[str, list[str]], files: Files, tmp_path: Path
) -> None:
    certificate, key = files.write("server", files.authority.issue_cert("127.0.0.1"))
    mine = files.write("client", files.authority.issue_cert("me"))
    settings = {"tls_certificate_file": certificate, "tls_key_file": key}
    settings |= {"tls_client_authority_file": files.authority_file, "tenants_file": files.tenants()}
    with running(redis_server, endpoints, tmp_path, **settings) as (router, _):
        options = ["--grpc", router.grpc, "--ca", files.authority_file, "--certificate", mine[0], "--key", mine[1]]
        command = [str(Path(sys.executable).parent / "cascade"), "generate", HARD, "-o", "out.png", *options]
        refused, served = (
            subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, check=False,
                env={**os.environ, "CASCADE_API_KEY": value},
            )
            for value in ("guess", KEY)
        )  # fmt: skip
    assert (refused.returncode, served.returncode) == (1, 0), refused.stderr + served.stderr
    assert "Traceback" not in refused.stderr
    assert Image.open(tmp_path / "out.png").size == (32, 32)
