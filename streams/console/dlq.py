"""The dead-letter topic for people: list what was refused, look into one letter, send it once more.

A letter is never removed: the topic is a log. A replay is a person's signed act: it puts the original bytes, key and headers back
on their topic, as the role that writes there (its certificate must be on this machine), and leaves an audit entry by which later
lists know of it. They are read anew from the place that the letter names: a letter is its writer's word. It refuses a letter that
differs from them, what the topic has let go, and whatever the responder may write: orders are decided, never repeated by hand.
Fed by `dead-letter` and `audit`.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from kafka import KafkaConsumer, TopicPartition
from msgspec import structs
from rich.console import Console
from rich.table import Table

from infra.clients import consumer, producer
from infra.settings import Settings, read_settings
from responders.console.tables import plain
from responders.people.access import Deed
from responders.people.desk import Admitted
from responders.people.login import Actor, logged_in
from streams import codec, topics
from streams.errors import BadInput
from streams.events import AuditEntry, DeadLetter, Event, event_id
from streams.topics import Role, Topic

REPLAYED = "dead-letter.replay"
_INSTEAD = {
    topics.MODEL_STATE.name: "`kerbwatch models promote` or `kerbwatch models rollback` sends a new order",
    topics.QUARANTINE.name: "see its incident (`kerbwatch incidents show`), whose timeline tells which frames are missing",
    topics.INCIDENTS.name: "`kerbwatch incidents show` has what every change said",
    topics.AUDIT.name: "`kerbwatch audit verify` tells which entries were sent and are not in the log",
    topics.DEAD_LETTER.name: "a letter stays in its topic; mend whoever could not read it",
}
_DECIDE = "mend the cause, and let the responder decide anew"
_CAUSE = 80
"""Characters of a cause that a list shows; `show` has it all."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What could not be read: list it, look into it, send it once more."
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def read_all(settings: Settings, topic: Topic, role: Role) -> Iterator[Any]:
    """Every record of a topic from its start to its end at the time of the call, in order within each partition.

    Raises Unavailable if the broker cannot be reached.
    """
    client: KafkaConsumer = consumer(settings, role, group=None)
    try:
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        client.assign(partitions)
        ends = client.end_offsets(partitions)
        client.seek_to_beginning(*partitions)
        while any(client.position(tp) < ends[tp] for tp in partitions):
            for tp, records in client.poll(timeout_ms=500).items():
                yield from (record for record in records if record.offset < ends[tp])
    finally:
        client.close()


def read_events(settings: Settings, topic: Topic, role: Role = Role.OPERATOR) -> Iterator[Event]:
    """Every readable event of a topic; what cannot be read is left out (it is on the dead-letter topic already)."""
    for record in read_all(settings, topic, role):
        try:
            yield codec.decode(record.value, topic, topic.carries).event
        except BadInput:
            continue


def letters(settings: Settings, whole: str = "") -> list[DeadLetter]:
    """All dead letters, oldest first, of each id the first (a crash may have written one twice, a stranger another one later).

    Bodies come only with those whose id begins with `whole`. A letter whose id is that of another message is left out, and counted
    on stderr: no service of ours writes one.
    """
    by_id: dict[str, DeadLetter] = {}
    foreign = 0
    for letter in read_events(settings, topics.DEAD_LETTER):
        if not isinstance(letter, DeadLetter) or letter.id in by_id:
            continue
        if letter.id != event_id("dead-letter", letter.topic, letter.partition, letter.offset):
            foreign += 1
        else:
            by_id[letter.id] = letter if whole and letter.id.startswith(whole) else structs.replace(letter, body=b"")
    if foreign:
        typer.echo(f"{foreign} letters bear the id of another message and are left out: somebody else wrote them", err=True)
    return sorted(by_id.values(), key=lambda letter: letter.time)


def replayed(settings: Settings) -> set[str]:
    """Ids of the letters that were sent once more."""
    entries = read_events(settings, topics.AUDIT)
    return {entry.target for entry in entries if isinstance(entry, AuditEntry) and entry.action == REPLAYED}


def find(all_letters: Sequence[DeadLetter], wanted: str) -> DeadLetter:
    """The one letter whose id begins with `wanted`. Raises BadInput if there is none or more than one."""
    found = [letter for letter in all_letters if letter.id.startswith(wanted)]
    if len(found) != 1:
        hint = f"it fits {len(found)} letters; give more characters" if found else "see `kerbwatch dlq list`"
        raise BadInput(f"no single dead letter {wanted!r}: {hint}")
    return found[0]


def topic_of(letter: DeadLetter) -> Topic:
    """Where a letter came from.

    Raises BadInput if it cannot be sent there again: the topic is unknown or the responder's to write, or its body was not kept.
    """
    topic = topics.BY_NAME.get(letter.topic)
    if topic is None:
        raise BadInput(f"dead letter {letter.id} names topic {letter.topic!r}, which this kerbwatch does not have")
    if Role.RESPONDER in topic.written_by:
        instead = _INSTEAD.get(topic.name, _DECIDE)
        raise BadInput(f"what lies on topic {topic.name} is the system's own word; nobody sends it again by hand: {instead}")
    if letter.body_bytes and not letter.body:
        raise BadInput(f"dead letter {letter.id} was kept without its {letter.body_bytes} bytes; it cannot be sent again")
    return topic


def original(settings: Settings, letter: DeadLetter) -> Any:
    """The message itself, as it lies in the topic that the letter names; what a letter says is its writer's word.

    Raises BadInput if it cannot be sent again (`topic_of`), is not there any more or is not what the letter says.
    """
    place = TopicPartition(topic_of(letter).name, letter.partition)
    client: KafkaConsumer = consumer(settings, Role.OPERATOR, group=None)
    try:
        record = _read_at(client, place, letter.offset)
    finally:
        client.close()
    where = f"{place.topic}/{place.partition}/{letter.offset}"
    if record is None:
        raise BadInput(f"the message is at {where} no more: it was too old to be kept, and a letter alone is not sent again")
    headers = tuple((name, value or b"") for name, value in record.headers)
    if (record.key or b"", record.value or b"", headers) != (letter.key, letter.body, letter.headers):
        raise BadInput(
            f"dead letter {letter.id} is not what lies at {where}: somebody else wrote it; nothing is sent. Keep both, and see who "
            f"may write to topic {topics.DEAD_LETTER.name}"
        )
    return record


def _read_at(client: KafkaConsumer, place: TopicPartition, offset: int) -> Any:
    if place.partition not in (client.partitions_for_topic(place.topic) or ()):
        return None
    client.assign([place])
    if not client.beginning_offsets([place])[place] <= offset < client.end_offsets([place])[place]:
        return None
    client.seek(place, offset)
    while client.position(place) <= offset:
        for record in client.poll(timeout_ms=500, max_records=1).get(place, ()):
            return record if record.offset == offset else None
    return None


def replay_letter(settings: Settings, letter: DeadLetter, act: Admitted, now: datetime) -> AuditEntry:
    """Put the original message back on its topic and record whose act that was. Raises BadInput as `original` does."""
    topic, actor, record = topic_of(letter), act.statement.actor, original(settings, letter)
    entry = AuditEntry(
        id=event_id(REPLAYED, letter.id, now.isoformat()),
        source=f"operator/{actor}",
        time=now,
        subject=letter.topic,
        actor=actor,
        action=REPLAYED,
        target=letter.id,
        why=act.statement.comment,
        cause_id=act.id,
    )
    writer = producer(settings, topic.written_by[0])
    operator = producer(settings, Role.OPERATOR)
    try:
        # The record first: an act that is recorded and not done can be repeated, one done and not recorded is hidden.
        operator.send(topics.AUDIT.name, codec.encode(entry), key=actor.encode()).get(timeout=30)
        writer.send(topic.name, record.value, key=record.key, headers=list(record.headers)).get(timeout=30)
    finally:
        writer.close()
        operator.close()
    return entry


@app.command("list")
def list_letters(as_json: JsonOption = False) -> None:
    """What was refused, oldest first. Example: `kerbwatch dlq list --json`."""
    settings = read_settings()
    again = replayed(settings)
    found = letters(settings)
    rows = [_row(letter, again) for letter in found]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("id", "when (UTC)", "from", "reason", "cause", box=None, pad_edge=False, title_justify="left")
    table.title = f"{len(rows)} dead letters"
    for letter in found:
        reason = f"{letter.reason}, replayed" if letter.id in again else letter.reason
        cause = letter.cause.removeprefix("BadInput: ")[:_CAUSE]
        table.add_row(letter.id[:8], f"{letter.time:%m-%d %H:%M:%S}", *map(plain, (letter.subject, reason, cause)))
    Console().print(table)


@app.command()
def show(
    letter: Annotated[str, typer.Argument(help="Id of the letter, or how it begins.")],
    save: Annotated[Path | None, typer.Option(help="Write the original bytes to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """One letter with its headers and cause. Example: `kerbwatch dlq show 3fa9 --save bad.jpg`."""
    settings = read_settings()
    found = find(letters(settings, whole=letter), letter)
    if save is not None:
        save.write_bytes(found.body)
    row = _row(found, replayed(settings)) | {"headers": {name: value.decode(errors="replace") for name, value in found.headers}}
    if as_json:
        typer.echo(json.dumps(row))
        return
    table = Table(show_header=False, title=f"dead letter {found.id}")
    for name, value in row.items():
        text = json.dumps(value, indent=1) if isinstance(value, dict) else str(value)
        table.add_row(name, "\n".join(map(plain, text.splitlines())))
    Console().print(table)


@app.command()
def replay(
    letter: Annotated[str, typer.Argument(help="Id of the letter, or how it begins.")],
    why: Annotated[str, typer.Option("--why", "--comment", "-m", help="Why; it is kept for good.")],
    again: Annotated[bool, typer.Option(help="Also if it was replayed before.")] = False,
    actor: Actor = None,
) -> None:
    """Send one letter once more to where it came from. Example: `kerbwatch dlq replay 3fa9 --why "mended in 0.2.1"`."""
    with logged_in(actor) as login:
        found = find(letters(login.settings, whole=letter), letter)
        login.wants(Deed.REPLAY, found.id)
        if found.id in replayed(login.settings) and not again:
            raise BadInput(f"dead letter {found.id} was replayed before; say --again if that is meant")
        original(login.settings, found)
        act = login.does(Deed.REPLAY, found.id, why, ("topic", found.topic))
        replay_letter(login.settings, found, act, datetime.now(UTC))
    typer.echo(f"sent {found.body_bytes} bytes to {found.topic} once more")


def _row(letter: DeadLetter, again: set[str]) -> dict[str, object]:
    return {
        "id": letter.id,
        "time": letter.time.isoformat(),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason,
        "cause": letter.cause,
        "source": letter.source,
        "body_bytes": letter.body_bytes,
        "replayed": letter.id in again,
    }
