"""`kerbwatch audit catch-up`: after a restore, the audit log is made whole from topic `audit`, which Kafka keeps for good.

It decides how the topic is read: from its beginning to where it ends now, what the keeper could read, in order. What may be taken
in is decided in `responders.proof.restoring`. It refuses to keep a place in the topic. Fed by topic `audit`.

Source: paper SC-10 (audit trails); NIST SP 800-53 CP-10(2).
"""

from collections.abc import Iterator, Sequence

import typer
from kafka import TopicPartition
from rich.console import Console

from infra.clients import consumer
from infra.db import writing
from infra.settings import Settings, read_settings
from responders.console.tables import AsJson, opened, plain, print_json
from responders.proof.restoring import take_in
from streams import codec
from streams.errors import BadInput, Tampered
from streams.events import AuditEntry
from streams.topics import AUDIT, Role

_SHOWN = 5


def entries(settings: Settings) -> Iterator[Sequence[bytes]]:
    """The topic's entries, oldest first, batch by batch. Raises Unavailable without a broker."""
    client = consumer(settings, Role.OPERATOR, group=None)
    try:
        place = TopicPartition(AUDIT.name, 0)  # its only one: the log has one order
        client.assign([place])
        client.seek_to_beginning(place)
        end = client.end_offsets([place])[place]
        while client.position(place) < end:
            batch = client.poll(timeout_ms=500, max_records=1000).get(place, ())
            yield [record.value for record in batch if record.offset < end and _readable(record.value)]
    finally:
        client.close()


def _readable(value: bytes) -> bool:
    try:
        codec.decode(value, AUDIT, AuditEntry)
    except BadInput:  # it is on the dead-letter topic
        return False
    return True


def catch_up(as_json: AsJson = False) -> None:
    """After a restore, take in what the log lacks. Example: kerbwatch audit catch-up.

    Give it between restoring the database and `kerbwatch up`, with the broker running (`kerbwatch kafka up`): docs/schedule.md.
    """
    settings = read_settings()
    with opened(settings) as sessions, Console(stderr=True).status("reading topic audit"), writing(sessions) as session:
        done = take_in(session, settings, entries(settings))
    if as_json:
        print_json(done)
    else:
        typer.echo(f"{done.entries} entries and {done.acts} acts of people taken in again")
        typer.echo(f"{done.size} entries hold, as do {done.checkpoints} checkpoints; now `kerbwatch up`")
    if done.faults:
        more = f" and {len(done.faults) - _SHOWN} more" if len(done.faults) > _SHOWN else ""
        raise Tampered(f"what was taken in stays; still wrong: {plain('; '.join(done.faults[:_SHOWN]))}{more}: see docs/audit.md")
