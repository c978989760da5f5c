"""Who may speak to the broker: one private authority per home, one certificate per role (mutual TLS).

It decides which identities exist and how long they hold; it refuses to overwrite a valid one unless asked to rotate. A role's file
holds its private key, its certificate and the authority's (PEM, mode 0600), as Kafka's PEM key store and OpenSSL both want it.
No topic feeds it; the roles are those of `streams.topics`.

Source: paper SC-9 (least privilege), 4.5.5; RFC 5280 for what the certificates carry.
"""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.files import alone, write_whole
from infra.settings import Settings
from streams.errors import Unavailable
from streams.topics import EVERY_ROLE

BROKER = "broker"
ADMIN = "admin"
IDENTITIES = (BROKER, ADMIN, *EVERY_ROLE)
"""Every common name that gets a certificate; the first two are the broker's super users."""

_AUTHORITY_DAYS = 5 * 365
_IDENTITY_DAYS = 365
RENEW_DAYS = 30
"""A certificate with less left is made anew."""
_CLOCK_SKEW = timedelta(minutes=5)


def folder(settings: Settings) -> Path:
    """Where certificates lie."""
    return settings.home.resolve() / "keys" / "tls"


def authority_file(settings: Settings) -> Path:
    """The authority's certificate: what every side trusts."""
    return folder(settings) / "ca.pem"


def identity_file(settings: Settings, identity: str) -> Path:
    """Private key and certificate chain of one identity."""
    return folder(settings) / f"{identity}.pem"


def make_certificates(settings: Settings, now: datetime, *, rotate: bool = False) -> tuple[str, ...]:
    """Makes what is missing, expires within 30 days, or (with `rotate`) everything anew. Returns what was made, by name.

    A new authority makes all identities anew; the broker and all clients must then be restarted.
    """
    with alone(folder(settings) / ".lock"):
        folder(settings).chmod(0o700)
        made = []
        key_file = folder(settings) / "ca.key"
        if rotate or not key_file.exists() or not _holds(authority_file(settings), now):
            key, certificate = _authority(now)
            write_whole(key_file, _private(key))
            write_whole(authority_file(settings), certificate.public_bytes(serialization.Encoding.PEM), 0o644)
            made.append("ca")
        authority = x509.load_pem_x509_certificate(authority_file(settings).read_bytes())
        authority_key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        hosts = {"localhost", "127.0.0.1", settings.kafka_host}
        for identity in IDENTITIES:
            path = identity_file(settings, identity)
            names = hosts if identity == BROKER else set()
            if made[:1] == ["ca"] or not _holds(path, now, authority, names):
                write_whole(path, _identity(identity, names, authority, authority_key, now))
                made.append(str(identity))
        return tuple(made)


def ssl_context(settings: Settings, identity: str) -> ssl.SSLContext:
    """A client's side of mutual TLS (1.3 only): shows `identity`'s certificate, trusts only our authority.

    Raises Unavailable if the certificate has not been made.
    """
    path = identity_file(settings, identity)
    if not path.is_file():
        raise Unavailable(f"no certificate for role {identity} at {path}: run `kerbwatch keys init`")
    context = ssl.create_default_context(cafile=str(authority_file(settings)))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(path)
    return context


def expiry(settings: Settings) -> dict[str, datetime | None]:
    """When each identity's certificate ends; None where there is none."""
    ends: dict[str, datetime | None] = {}
    for identity in IDENTITIES:
        path = identity_file(settings, identity)
        ends[str(identity)] = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc if path.is_file() else None
    return ends


def _holds(
    path: Path, now: datetime, authority: x509.Certificate | None = None, hosts: frozenset[str] | set[str] = frozenset()
) -> bool:
    """Whether a certificate is there, by our authority, not about to expire, and good for these host names."""
    if not path.is_file():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.not_valid_after_utc - now < timedelta(days=RENEW_DAYS):
        return False
    if authority is not None and certificate.issuer != authority.subject:
        return False
    return (
        not hosts or _alternative_names(hosts) == certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )


def _alternative_names(hosts: frozenset[str] | set[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in sorted(hosts):
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial number in the name tells one rotation's authority from the next.
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"kerbwatch {serial:x}"[:48])])
    certificate = (
        x509.CertificateBuilder(serial_number=serial)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _identity(
    identity: str, hosts: set[str], authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, now: datetime
) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    # The broker is a client too: of its own controller.
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
    builder = (
        x509.CertificateBuilder(serial_number=x509.random_serial_number())
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity))]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(min(now + timedelta(days=_IDENTITY_DAYS), authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(_alternative_names(hosts), critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256())
    chain = b"".join(part.public_bytes(serialization.Encoding.PEM) for part in (certificate, authority))
    return _private(key) + chain


def utc_now() -> datetime:
    """The wall clock, for callers at the rim."""
    return datetime.now(UTC)
