"""A key and a chain of certificates with which images can be signed, made for a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class SigningFiles(NamedTuple):
    """PEM files; ``authority`` is the root, which readers trust."""

    certificates: Path
    key: Path
    authority: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes workers sign with it."""
        return {"CASCADE_C2PA_CERTIFICATE_FILE": str(self.certificates), "CASCADE_C2PA_KEY_FILE": str(self.key)}


def make_signing_files(folder: Path) -> SigningFiles:
    """Make a root and a certificate that it signed."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("Root", root_key, root_key, authority=True)
    signer = _certificate("Signer", key, root_key, authority=False)
    files = SigningFiles(folder / "chain.pem", folder / "key.pem", folder / "root.pem")
    files.certificates.write_bytes(signer + root)
    files.authority.write_bytes(root)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, root_key: ec.EllipticCurvePrivateKey, *, authority: bool
) -> bytes:
    now, usage = (
        datetime.now(UTC),
        dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
        ),
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("Root"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                key_cert_sign=authority,
                crl_sign=authority,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
    )
    if not authority:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(root_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _name(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
