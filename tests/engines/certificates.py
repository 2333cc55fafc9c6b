"""Certificates for one test, made by openssl: an authority, and what it signs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from install import from_debian

# Of our own, as systems differ in what theirs adds.
CONFIG = """
[req]
distinguished_name = name
x509_extensions = authority
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
"""

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key (PKCS #8), both PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates that hold for a day. One more of these is a stranger, whom nobody trusts."""

    def __init__(self, lab, name: str = "authority"):
        self.lab, self.openssl = lab, from_debian("openssl", "openssl")
        self.folder = lab.folder / name
        self.folder.mkdir()
        self.config = self.folder / "openssl.cnf"
        self.config.write_text(CONFIG)
        self.certificate, self.key = self.folder / "ca.pem", self.folder / "ca.key"
        self.request(name, self.key, self.certificate, "-x509", "-days", "2")

    def request(self, name: str, key: Path, out: Path, *how: str) -> None:
        """Makes a key, and with it a request, or a certificate signed by itself."""
        files = ["-config", self.config, "-keyout", key, "-out", out]
        self.lab.run([self.openssl, "req", "-new", *how, *NEW_KEY, "-subj", f"/CN={name}", *files])

    def issue(self, name: str, kind: str) -> Certificate:
        """A `server` certificate, good for 127.0.0.1 and localhost, or a `client` one."""
        asked, made = self.folder / f"{name}.csr", self.folder / f"{name}.pem"
        key = self.folder / f"{name}.key"
        self.request(name, key, asked)
        signer = ["-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", "1"]
        extensions = ["-extfile", self.config, "-extensions", kind]
        self.lab.run([self.openssl, "x509", "-req", "-sha256", "-in", asked, "-out", made, *signer, *extensions])
        return Certificate(made, key)
