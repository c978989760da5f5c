"""Notices by e-mail, over SMTP with STARTTLS.

It decides who gets a page (by role) and what the mail says; it refuses to speak to a server without TLS or with a certificate that
does not hold, so that neither password nor incident travels in the clear. Fed by `deliveries.py`.

Source: RFC 5321, RFC 3207 (STARTTLS), RFC 5322 (3.6.4: Message-ID is the same for the same message).
"""

import smtplib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr

from infra.settings import Secret, Settings
from responders.notify.channels import TIMEOUT_S, ChannelName
from responders.notify.notices import Notice, bundle_id, subject, text
from streams.errors import BadInput, Unavailable

_SETTING = "KERBWATCH_MAIL_TO"
_ROLES = frozenset(f"R{number}" for number in range(1, 9))


@dataclass(frozen=True)
class Recipient:
    """Who is written to: for every notice, or only for those that call a role."""

    address: str
    role: str = ""


@dataclass(frozen=True)
class Email:
    """A mail server and who is written to."""

    host: str
    port: int
    user: str | None
    password: Secret | None
    sender: str
    recipients: tuple[Recipient, ...]
    name: ChannelName = ChannelName.EMAIL
    _told: set[tuple[str, str]] = field(default_factory=set)
    """Keys of notices that are not told to all yet, with the addresses that have them: another try goes to the others."""

    def send(self, notices: Sequence[Notice]) -> str:
        """As `Channel.send`. It is told once one of those that it is meant for has it; another try goes to nobody a second time."""
        role = notices[0].role
        to = [one for one in self.written_to(role) if any((notice.key, one) not in self._told for notice in notices)]
        where = f"mail server {self.host}:{self.port}"
        try:
            with smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S) as server:
                server.starttls(context=ssl.create_default_context())
                if self.user is not None and self.password is not None:
                    server.login(self.user, self.password.reveal())
                refused = server.send_message(self.mail(notices, to), to_addrs=to)
        except smtplib.SMTPNotSupportedError as error:
            raise Unavailable(f"{where} offers no STARTTLS, or no way to log in: {error}") from None
        except smtplib.SMTPRecipientsRefused as error:
            raise Unavailable(f"{where} refused every recipient ({_codes(error.recipients)}): see {_SETTING}") from None
        except smtplib.SMTPResponseException as error:
            raise Unavailable(f"{where} answered {error.smtp_code} ({type(error).__name__})") from None
        except (OSError, smtplib.SMTPException) as error:
            raise Unavailable(f"{where} cannot be used: {error or type(error).__name__}") from None
        fault = f"{where} refused {len(refused)} of {len(to)} recipients ({_codes(refused)}): see {_SETTING}" if refused else ""
        if refused and all(one in refused for one in self._meant(role) if one in to):
            self._told.update((notice.key, one) for notice in notices for one in to if one not in refused)
            raise Unavailable(fault)
        self._told.difference_update([told for told in self._told if told[0] in {notice.key for notice in notices}])
        return fault

    def _meant(self, role: str) -> tuple[str, ...]:
        """Those of the called role by name; all that are written to where nobody is."""
        return tuple(one.address for one in self.recipients if role and one.role == role) or self.written_to(role)

    def written_to(self, role: str) -> tuple[str, ...]:
        """The addresses without a role and those of the called one; all of them rather than nobody."""
        meant = [one.address for one in self.recipients if one.role in {"", role}]
        return tuple(dict.fromkeys(meant or [one.address for one in self.recipients]))

    def mail(self, notices: Sequence[Notice], to: Sequence[str]) -> EmailMessage:
        """The mail as it is sent."""
        mail = EmailMessage()
        mail["Subject"] = subject(notices)
        mail["From"], mail["To"] = self.sender, ", ".join(to)
        mail["Date"] = format_datetime(notices[0].time)
        mail["Message-ID"] = f"<{bundle_id(notices)}@kerbwatch.invalid>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(text(notices))
        return mail


def _codes(refused: Mapping[str, tuple[int, bytes]]) -> str:
    return ", ".join(sorted({str(code) for code, _ in refused.values()}))


def email_of(settings: Settings) -> Email | None:
    """The mail server of the settings, None without one. Raises BadInput if sender or recipients do not hold."""
    if settings.smtp_host is None:
        return None
    if "@" not in parseaddr(settings.mail_from)[1]:
        raise BadInput("KERBWATCH_MAIL_FROM is no address, and a mail needs a sender")
    recipients = tuple(_recipient(entry.strip()) for entry in settings.mail_to.split(",") if entry.strip())
    if not recipients:
        raise BadInput(
            f"{_SETTING} names nobody; give oncall@example.org, or R4=security@example.org for a role, with commas between"
        )
    return Email(settings.smtp_host, settings.smtp_port, settings.smtp_user, settings.smtp_password, settings.mail_from, recipients)


def _recipient(entry: str) -> Recipient:
    role, equals, address = entry.rpartition("=")
    if (equals and role not in _ROLES) or "@" not in parseaddr(address)[1]:
        raise BadInput(f"{_SETTING}: {entry!r} is neither an address nor ROLE=ADDRESS with a role from R1 to R8")
    return Recipient(address, role)
