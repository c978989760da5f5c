"""A letter is its writer's word: what is sent again is what lies in the topic that it names, and orders are never sent again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from kafka.admin import KafkaAdminClient
from kafka.structs import TopicPartition
from msgspec.structs import replace
from typer.testing import CliRunner

from infra import clients
from infra.settings import Settings
from responders.people.access import Deed
from responders.people.acts import Statement
from responders.people.desk import Admitted
from streams import codec, topics
from streams.codec import Message
from streams.console import dlq
from streams.errors import BadInput, Refusal
from streams.events import DeadLetter, Event, event_id
from streams.topics import ALL, DEAD_LETTER, FRAMES, SIGNALS, Role

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
HEADERS = (("ce_id", b"x"),)
ACT = Admitted("act", Statement(actor="devops-1", deed=Deed.REPLAY, target="x", comment="mended", time=NOW), ())


def letter(
    topic: str = FRAMES.name, offset: int = 17, body: bytes = b"abc", key: bytes = b"gate", cause: str = "bad"
) -> DeadLetter:
    message = Message(topic, 0, offset, key, body, HEADERS)
    return codec.dead_letter(message, BadInput(cause, Refusal.UNDECODABLE), source="inference/w1", now=NOW)


@dataclass
class Topics:
    """What topic `dead-letter` holds, for commands that are given no broker."""

    letters: Sequence[DeadLetter] = ()

    def read(self, _settings: Settings, topic: topics.Topic, _role: Role = Role.OPERATOR) -> Iterator[Event]:
        yield from self.letters if topic is DEAD_LETTER else ()


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Topics:
    made = Topics()
    monkeypatch.setattr(dlq, "read_events", made.read)
    monkeypatch.setenv("COLUMNS", "200")
    return made


def test_the_first_letter_of_an_id_counts_and_none_with_the_id_of_another_message(
    there: Topics, capsys: pytest.CaptureFixture[str]
) -> None:
    genuine = letter()
    later = replace(genuine, key=b"another", source="inference/w2")
    foreign = replace(letter(offset=18), topic="model-state", body=b"an order")
    there.letters = (foreign, genuine, later)
    [found] = dlq.letters(Settings(), whole=genuine.id)
    assert found == genuine
    assert "1 letters bear the id of another message" in capsys.readouterr().err


def test_bodies_are_held_only_of_the_letter_that_is_asked_for(there: Topics) -> None:
    one, two = letter(offset=1), letter(offset=2)
    there.letters = (one, two)
    assert [found.body for found in dlq.letters(Settings())] == [b"", b""]
    wanted = dlq.find(dlq.letters(Settings(), whole=two.id[:9]), two.id[:9])
    assert wanted == two
    assert sum(bool(found.body) for found in dlq.letters(Settings(), whole=two.id)) == 1


def test_a_strangers_words_have_no_power_over_the_terminal(there: Topics) -> None:
    bad = replace(letter(key=b"[/x]", cause="[/x][bold]\x1b[31m"), headers=(("[/h]", b"[/v]"),), source="[/s]")
    there.letters = (bad,)
    for words in (("list",), ("show", bad.id)):
        done = CliRunner().invoke(dlq.app, words)
        assert done.exit_code == 0, done.exception
        assert "[/x][bold]" in done.output
        assert "\x1b[31m" not in done.output


@pytest.mark.parametrize("topic", [topic for topic in ALL if Role.RESPONDER in topic.written_by], ids=lambda topic: topic.name)
def test_what_the_responder_says_is_never_sent_again_by_hand(topic: topics.Topic) -> None:
    with pytest.raises(BadInput, match=r"nobody sends it again by hand: .{20}"):
        dlq.replay_letter(Settings(), letter(topic.name), ACT, NOW)


def test_orders_incidents_and_audit_entries_are_among_them() -> None:
    own = {topic.name for topic in ALL if Role.RESPONDER in topic.written_by}
    assert own >= {"model-state", "quarantine", "incidents", "audit", "dead-letter"}


@pytest.mark.broker
def test_what_is_sent_again_is_read_anew_and_must_be_what_the_letter_says(
    broker: Settings, fresh_topics: Callable[[Settings], None]
) -> None:
    fresh_topics(broker)
    with closing(clients.producer(broker, Role.WATCHER)) as writer:
        sent = writer.send(SIGNALS.name, b"abc", key=b"gate", headers=list(HEADERS), partition=0).get(timeout=30)
    genuine = letter(SIGNALS.name, sent.offset)
    dlq.replay_letter(broker, genuine, ACT, NOW)
    back = [record for record in dlq.read_all(broker, SIGNALS, Role.OPERATOR) if record.offset != sent.offset or record.partition]
    assert [(record.key, record.value, tuple(record.headers)) for record in back] == [(b"gate", b"abc", HEADERS)]
    for forged in (
        replace(genuine, body=b"another", body_bytes=7),
        replace(genuine, key=b"another"),
        replace(genuine, headers=()),
    ):
        with pytest.raises(BadInput, match="somebody else wrote it; nothing is sent"):
            dlq.replay_letter(broker, forged, ACT, NOW)
    for nowhere in (letter(SIGNALS.name, sent.offset + 100), replace(genuine, partition=99)):
        with pytest.raises(BadInput, match="a letter alone is not sent again"):
            dlq.original(broker, nowhere)
    with pytest.raises(BadInput, match="was kept without its 3 bytes"):
        dlq.original(broker, replace(genuine, body=b""))
    admin: KafkaAdminClient
    with closing(clients.admin(broker)) as admin:  # what retention does
        admin.delete_records({TopicPartition(SIGNALS.name, 0): sent.offset + 1})
    with pytest.raises(BadInput, match="it was too old to be kept"):
        dlq.replay_letter(broker, genuine, ACT, NOW)
    assert len([*dlq.read_all(broker, SIGNALS, Role.OPERATOR)]) <= 1
    assert event_id("dead-letter", SIGNALS.name, 0, sent.offset) == genuine.id
