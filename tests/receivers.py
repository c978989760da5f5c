"""Real servers on loopback that take what is told: HTTP and SMTP with STARTTLS, with certificates of a test's own authority."""

import base64
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from infra.certificates import BROKER, authority_file, identity_file, make_certificates
from infra.settings import Settings


@dataclass(frozen=True)
class Authority:
    """Who vouches for the test's servers: a certificate for localhost, and the file that says whom to trust."""

    certificate: Path
    trusted: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context


def authority(home: Path) -> Authority:
    settings = Settings(home=home)
    make_certificates(settings, datetime.now(UTC))
    return Authority(identity_file(settings, BROKER), authority_file(settings))


@dataclass(frozen=True)
class Posted:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """An HTTP server that keeps what it is posted; `answers` are its next status codes, 204 after these."""

    url: str = ""
    got: list[Posted] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    elsewhere: str = ""


@contextmanager
def web_server(tls: Authority | None = None) -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            web.got.append(Posted(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            code = web.answers.pop(0) if web.answers else 204
            self.send_response(code)
            if code == 307:
                self.send_header("Location", web.elsewhere)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.context().wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # type: ignore[method-assign] - a client that refuses us is what is tested
    web.url = f"{'https' if tls else 'http'}://localhost:{server.server_address[1]}"
    with _served(server):
        yield web


@dataclass
class Post:
    """A mail server that keeps what it is given, and whether it came over TLS, after which log-in."""

    port: int = 0
    mails: list[str] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    plain_lines: list[str] = field(default_factory=list)
    refuse: bool = False
    busy_for: str = ""  # an address that is to be tried again later


class _MailHandler(socketserver.StreamRequestHandler):
    """One conversation: STARTTLS if there is a certificate, and only after it a log-in."""

    post: Post
    tls: Authority | None
    encrypted = False

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def handle(self) -> None:
        self.to: list[str] = []
        self.say("220 test")
        while line := self.rfile.readline():
            words = line.decode().strip()
            if not self.encrypted:
                self.post.plain_lines.append(words)
            verb = words.split(" ", maxsplit=1)[0].upper()
            if verb == "QUIT":
                self.say("221 bye")
                return
            {"EHLO": self.greet, "STARTTLS": self.encrypt, "AUTH": self.log_in, "RCPT": self.address, "DATA": self.take}.get(
                verb, lambda _words: self.say("250 good")
            )(words)

    def greet(self, _words: str) -> None:
        offer = "AUTH PLAIN" if self.encrypted else "STARTTLS" if self.tls is not None else "HELP"
        self.say("250-test")
        self.say(f"250 {offer}")

    def encrypt(self, _words: str) -> None:
        assert self.tls is not None
        self.say("220 go on")
        self.connection = self.tls.context().wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.encrypted = True

    def log_in(self, words: str) -> None:
        self.post.logins.append(base64.b64decode(words.split(" ")[2]).decode())
        self.say("235 welcome")

    def address(self, words: str) -> None:
        address = words.partition("<")[2].rstrip(">")
        if self.post.refuse or address == self.post.busy_for:
            self.say("550 nobody here" if self.post.refuse else "450 try later")
            return
        self.to.append(address)
        self.say("250 good")

    def take(self, _words: str) -> None:
        self.say("354 go on")
        self.post.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
        self.post.recipients.append(self.to)
        self.say("250 taken")


@contextmanager
def mail_server(tls: Authority | None) -> Iterator[Post]:
    """A mail server; without `tls` it offers no encryption."""
    post = Post()
    handler = type("Handler", (_MailHandler,), {"post": post, "tls": tls})
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] - a client that refuses us is what is tested
    post.port = server.server_address[1]
    with _served(server):
        yield post


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
