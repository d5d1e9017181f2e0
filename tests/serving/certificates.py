"""Certificate authorities for tests of TLS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Certificate authority that signs for ``dns_name``, with its PEM files in ``folder``."""

    def __init__(self, folder: Path, name: str, dns_name: str = "localhost") -> None:
        self._folder, self._name, self._dns_name = folder, name, dns_name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate_file, self.key_file = self._write("ca", self._key, authority=True)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key."""
        return self._write(name, ec.generate_private_key(ec.SECP256R1()), authority=False)

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> tuple[Path, Path]:
        now = datetime.now(UTC)
        issuer, subject = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
            for common_name in (self._name, self._name if authority else name)
        )
        certificate = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(self._dns_name)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        file = self._folder / f"{self._name}-{name}.pem"
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.with_suffix(".key").write_bytes(private)
        return file, file.with_suffix(".key")
