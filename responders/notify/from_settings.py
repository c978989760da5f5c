"""Which channels the settings set up.

It refuses settings that cannot hold, naming the setting and never what it holds. It sends nothing. No topic feeds it.
"""

from msgspec import Struct

from infra.settings import Settings
from responders.notify.alertmanager import alertmanager_of
from responders.notify.channels import Channel, ChannelName
from responders.notify.console import Console
from responders.notify.smtp import email_of
from responders.notify.webhook import webhook_of
from streams.errors import BadInput

NEEDS = {
    ChannelName.CONSOLE: "nothing",
    ChannelName.WEBHOOK: "KERBWATCH_WEBHOOK_URL and KERBWATCH_WEBHOOK_SECRET",
    ChannelName.EMAIL: "KERBWATCH_SMTP_HOST, KERBWATCH_MAIL_FROM and KERBWATCH_MAIL_TO",
    ChannelName.ALERTMANAGER: "KERBWATCH_ALERTMANAGER_URL",
}
"""What sets a channel up."""


class SetUp(Struct, frozen=True):
    """How a channel stands: usable; faulty, where settings are given that do not hold; or neither. `why` says what it lacks."""

    channel: ChannelName
    usable: bool
    faulty: bool
    why: str


def set_up(settings: Settings) -> tuple[SetUp, ...]:
    """How each channel stands. Nothing is sent: whether a message arrives, `kerbwatch notify test` shows."""
    return tuple(_set_up(settings, name) for name in ChannelName)


def _set_up(settings: Settings, name: ChannelName) -> SetUp:
    try:
        usable = channel_of(settings, name) is not None
    except BadInput as error:
        return SetUp(name, usable=False, faulty=True, why=str(error))
    return SetUp(name, usable=usable, faulty=False, why="" if usable else f"give {NEEDS[name]}")


def channel_of(settings: Settings, name: ChannelName) -> Channel | None:
    """The channel, None where the settings do not set it up (the console always is). Raises BadInput if they do not hold."""
    match name:
        case ChannelName.CONSOLE:
            return Console()
        case ChannelName.WEBHOOK:
            return webhook_of(settings)
        case ChannelName.EMAIL:
            return email_of(settings)
        case ChannelName.ALERTMANAGER:
            return alertmanager_of(settings)


def wanted(settings: Settings, name: ChannelName) -> Channel:
    """The channel that somebody asks for by name. Raises BadInput where it is not set up, naming what it needs."""
    channel = channel_of(settings, name)
    if channel is None:
        raise BadInput(f"channel {name} is not set up: give {NEEDS[name]} (docs/incidents.md, Notifiers)")
    return channel
