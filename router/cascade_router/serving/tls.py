"""Certificates of the router's servers. They are read from mounted files, and read again when the files change."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from cascade_api.settings import RouterSettings

log = structlog.get_logger(__name__)

_NAMES: Final = ("x509_common_name", "x509_subject_alternative_name")


class TlsError(Exception):
    """Certificates cannot be used; the message names the setting."""


class Certificates:
    """Certificate, key and, if clients must show certificates, the authority that signs those.

    Raises:
        TlsError: a file is missing, or the certificate and the key do not belong together.
    """

    def __init__(self, *, certificate: Path, key: Path, client_authority: Path | None) -> None:
        self.certificate, self.key, self.client_authority = certificate, key, client_authority
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        if client_authority is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            try:
                self._context.load_verify_locations(client_authority)
            except OSError as error:
                raise TlsError(f"CASCADE_ROUTER_TLS_CLIENT_AUTHORITY_FILE: {client_authority}: {error}") from None
        self._served = b""
        self._load()

    @classmethod
    def of(cls, settings: RouterSettings) -> Certificates | None:
        """The certificates that the settings name, or None without TLS. Raises TlsError."""
        given = (settings.tls_certificate_file, settings.tls_key_file)
        if not any(given):
            if settings.tls_client_authority_file:
                raise TlsError(
                    "CASCADE_ROUTER_TLS_CLIENT_AUTHORITY_FILE: needs CASCADE_ROUTER_TLS_CERTIFICATE_FILE and"
                    " CASCADE_ROUTER_TLS_KEY_FILE too"
                )
            return None
        if not all(given):
            raise TlsError("CASCADE_ROUTER_TLS_CERTIFICATE_FILE and CASCADE_ROUTER_TLS_KEY_FILE: set both or neither")
        authority = settings.tls_client_authority_file
        return cls(
            certificate=Path(given[0]), key=Path(given[1]), client_authority=Path(authority) if authority else None
        )

    @property
    def context(self) -> ssl.SSLContext:
        """The context for HTTP; new connections use the pair that `refresh` read last."""
        return self._context

    def refresh(self) -> None:
        """Read certificate and key again if the files changed; if they cannot be used, the last pair stays in force."""
        try:
            if self._bytes() != self._served:
                self._load()
                log.info("certificate read again")
        except TlsError as error:
            log.error("the new certificate cannot be used; the last one stays in force", problem=str(error))

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """The credentials for gRPC; every new connection uses the pair that `refresh` read last."""
        served = self._served

        def renewed() -> Any:
            nonlocal served
            if self._served == served:
                return None
            served = self._served
            return self._configuration()

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), renewed, require_client_authentication=self.client_authority is not None
        )

    def _configuration(self) -> Any:
        authority = None if self.client_authority is None else self.client_authority.read_bytes()
        key, _, certificate = self._served.partition(b"\0")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)

    def _bytes(self) -> bytes:
        try:
            return self.key.read_bytes() + b"\0" + self.certificate.read_bytes()
        except OSError as error:
            raise TlsError(f"TLS: {error.filename}: cannot be read: {error.strerror}") from None

    def _load(self) -> None:
        content = self._bytes()
        try:
            self._context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(
                f"TLS: {self.certificate} and {self.key} are not a certificate and its key: {error}"
            ) from None
        self._served = content


def certificate_names(auth_context: Mapping[str, Sequence[bytes]]) -> list[str]:
    """The common name and the DNS names of a gRPC client's certificate, if it showed one."""
    return [value.decode(errors="replace") for name in _NAMES for value in auth_context.get(name, ())]
