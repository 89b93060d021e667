"""`cascade generate`: request one image from a running cascade.

Libraries are imported where they are used, because every `cascade` command loads this module.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cascade_api.addresses import split_address
from cascade_api.command import CommandFailed, check_text
from cascade_api.local import default_state_dir, read_addresses
from cascade_api.names import (
    GRPC_UNBOUNDED,
    INPUT_PROMPT,
    INPUT_SEED,
    OUTPUT_CONFIDENCE,
    OUTPUT_IMAGE_ENCODED,
    PARAMETER_LORA,
)
from cascade_api.quantities import duration_s

_CALL_MARGIN_S: Final = 5.0
_LONGEST_S: Final = 600.0
_LONGEST_DEADLINE_S: Final = 24 * 3600.0
_INDEX_S: Final = 30.0
_OUTPUTS: Final = (OUTPUT_IMAGE_ENCODED, "route", "variant", OUTPUT_CONFIDENCE, "hardness")
_INVALID: Final = ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")


@dataclass(frozen=True)
class Access:
    """What a client needs for access: PEM files if the router uses TLS, and a key if it has tenants."""

    ca: Path | None
    certificate: Path | None
    key: Path | None
    api_key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def check(self) -> None:
        """Raise CommandFailed, which names the option, if the options do not fit or a file cannot be used.

        gRPC would only log the latter.
        """
        if (self.certificate is None) != (self.key is None):
            raise CommandFailed("--certificate and --key: give both or neither", code=2)
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise CommandFailed("--api-key: holds characters that no key has", code=2)
        if self.ca is not None or self.certificate is not None:
            self.context()

    def context(self) -> Any:
        """What TLS over HTTP needs (an ssl.SSLContext); raises CommandFailed, which names the option."""
        import ssl

        for option, file in (("--ca", self.ca), ("--certificate", self.certificate), ("--key", self.key)):
            try:
                if file is not None:
                    file.open("rb").close()
            except OSError as error:
                raise CommandFailed(f"{option}: cannot read {file}: {error.strerror}", code=2) from None
        context = ssl.create_default_context() if self.ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError:
                raise CommandFailed(f"--ca: {self.ca} holds no PEM certificate", code=2) from None
        if self.certificate is not None and self.key is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password="")
            except ssl.SSLError:
                raise CommandFailed(
                    f"--certificate, --key: {self.certificate} and {self.key} are not the PEM files of a certificate "
                    "and its key, unencrypted",
                    code=2,
                ) from None
        return context

    def client(self, target: str) -> Any:
        """A client of the router at ``host:port``."""
        from tritonclient.grpc import InferenceServerClient

        return InferenceServerClient(
            target,
            ssl=self.ca is not None,
            root_certificates=None if self.ca is None else str(self.ca),
            certificate_chain=None if self.certificate is None else str(self.certificate),
            private_key=None if self.key is None else str(self.key),
            channel_args=GRPC_UNBOUNDED,
        )


def register(app: typer.Typer) -> None:
    """Add the router's commands to `cascade`."""
    app.command("generate")(generate)


def generate(
    prompt: Annotated[str, typer.Argument(help="What the image shows.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path("image.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print how the image was made as JSON.")] = False,
    cascade: Annotated[str, typer.Option(help="Cascade to use; needed if several are served.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of the image; default: random.")] = None,
    deadline: Annotated[str, typer.Option(help="Time allowed, such as 2s; default: the objective.")] = "",
    lora: Annotated[str, typer.Option(help="Name of an adapter of the cascade's variants.")] = "",
    grpc: Annotated[str, typer.Option(metavar="HOST:PORT", help="The service; default: the local run's.")] = "",
    ca: Annotated[Path | None, typer.Option(help="PEM of the router's authority; it turns TLS on.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM of a client certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM of the certificate's key.")] = None,
    api_key: Annotated[str, typer.Option(envvar="CASCADE_API_KEY", help="Key of a tenant.")] = "",
    state_dir: Annotated[Path | None, typer.Option(help="State directory of the local run.")] = None,
) -> None:
    """Generate one image."""
    if ca is None and (certificate or key):
        raise CommandFailed("--certificate and --key need --ca", code=2)
    access = Access(ca=ca, certificate=certificate, key=key, api_key=api_key)
    access.check()
    try:
        deadline_s = duration_s(deadline) if deadline else None
    except (ValueError, OverflowError) as error:
        raise CommandFailed(f"--deadline: {error}", code=2) from None
    if deadline_s is not None and deadline_s > _LONGEST_DEADLINE_S:
        raise CommandFailed(f"--deadline: {deadline} is more than {_LONGEST_DEADLINE_S / 3600:g}h", code=2)
    check_text(prompt, option="prompt")
    check_text(cascade, option="--cascade")
    check_text(lora, option="--lora")
    target = _target(grpc) if grpc else _local_address(state_dir or default_state_dir())
    used_seed = random.getrandbits(31) if seed is None else seed
    made = _ask(target, prompt, access=access, cascade=cascade, seed=used_seed, lora=lora, deadline_s=deadline_s)
    _write(output, made.pop("file"))
    made |= {"seed": used_seed, "file": str(output)}
    if as_json:
        typer.echo(json.dumps(made))
    else:
        scores = [f"hardness {made['hardness']:.2f}"]
        if made["confidence"] is not None:
            scores.append(f"confidence {made['confidence']:.2f}")
        typer.echo(
            f"{output}: {made['route']}, made by {made['variant']} in {made['latency_ms']:.0f} ms ({', '.join(scores)})"
        )


def _target(address: str) -> str:
    try:
        split_address(address)
    except ValueError as error:
        raise CommandFailed(f"--grpc: {error}", code=2) from None
    return address


def _local_address(state_dir: Path) -> str:
    addresses = read_addresses(state_dir)
    if addresses is None:
        raise CommandFailed(
            f"no cascade runs from {state_dir}; start one with `cascade up`, or name a running one with --grpc"
        )
    return addresses.grpc


def _ask(
    target: str, prompt: str, *, access: Access, cascade: str, seed: int, lora: str, deadline_s: float | None
) -> dict[str, Any]:
    """The PNG file of an image, and how it was made."""
    import numpy as np
    from tritonclient.grpc import InferInput, InferRequestedOutput
    from tritonclient.utils import InferenceServerException

    inputs = [InferInput(INPUT_PROMPT, [1], "BYTES"), InferInput(INPUT_SEED, [1], "INT64")]
    inputs[0].set_data_from_numpy(np.array([prompt.encode()], dtype=object))
    try:
        inputs[1].set_data_from_numpy(np.array([seed], dtype=np.int64))
    except OverflowError:
        raise CommandFailed(f"--seed: {seed} does not fit into 64 bits", code=2) from None
    parameters: dict[str, int | str] = {} if deadline_s is None else {"deadline_ms": round(deadline_s * 1000)}
    if lora:
        parameters[PARAMETER_LORA] = lora
    client = access.client(target)
    try:
        model = cascade or _only_cascade(client, target, access.headers)
        began = time.monotonic()
        result = client.infer(
            model,
            inputs,
            outputs=[InferRequestedOutput(name) for name in _OUTPUTS],
            parameters=parameters,
            headers=access.headers,
            client_timeout=(deadline_s or _LONGEST_S) + _CALL_MARGIN_S,
        )
        latency_ms = (time.monotonic() - began) * 1000
    except InferenceServerException as error:
        raise CommandFailed(_explained(error, target), code=2 if error.status() in _INVALID else 1) from None
    finally:
        client.close()
    confidence = float(result.as_numpy(OUTPUT_CONFIDENCE)[0])
    return {
        "file": result.as_numpy(OUTPUT_IMAGE_ENCODED)[0],
        "cascade": model,
        "route": result.as_numpy("route")[0].decode(),
        "variant": result.as_numpy("variant")[0].decode(),
        "confidence": None if np.isnan(confidence) else round(confidence, 4),
        "hardness": round(float(result.as_numpy("hardness")[0]), 4),
        "latency_ms": round(latency_ms, 1),
    }


def _only_cascade(client: Any, target: str, headers: dict[str, str]) -> str:
    index = client.get_model_repository_index(headers=headers, client_timeout=_INDEX_S)
    names = sorted(model.name for model in index.models)
    if not names:
        raise CommandFailed(f"the router at {target} serves no cascade yet; try again in a moment")
    if len(names) > 1:
        raise CommandFailed(f"--cascade: {target} serves {', '.join(names)}; name one", code=2)
    return str(names[0])


def _explained(error: Any, target: str) -> str:
    message = str(error.message() or error.status())
    if error.status() == "StatusCode.UNAVAILABLE" and "handshake failed" in message:
        return f"{target} does not speak TLS, or --ca, --certificate and --key do not fit it"
    if error.status() == "StatusCode.UNAVAILABLE" and "errors resolving" in message:
        return f"--grpc: the host of {target} is not known"
    if error.status() == "StatusCode.UNAVAILABLE" and "failed to connect" in message:
        return f"nothing answers at {target}; start a cascade with `cascade up`"
    return message


def _write(path: Path, file: bytes) -> None:
    try:
        path.write_bytes(file)
    except OSError as error:
        raise CommandFailed(f"--output: cannot write {path}: {error.strerror or error}") from None
