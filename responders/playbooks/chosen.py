"""Which playbook is in force for each kind: the deployment's own, where it has one that holds, else the packaged one.

It decides that a file of the settings' folder that does not hold changes nothing: the packaged playbook of its kind serves on. An
incident must not wait for somebody's spelling; what is wrong is said by the responder's log, `kerbwatch doctor` and `kerbwatch
playbooks check`. It refuses a file that is too long to be a playbook. No topic feeds it.

Source: paper 4.6, 4.7 (an incident response plan that is the organisation's own).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.settings import Settings
from responders.playbooks.playbooks import Playbook, load, parse
from streams.errors import BadInput
from streams.events import Kind

_LARGEST = 1 << 20


@dataclass(frozen=True)
class Chosen:
    """The playbook in force for each kind, the files of those that are not packaged, and what is wrong in the folder."""

    books: Mapping[Kind, Playbook]
    own: Mapping[Kind, Path]
    faults: tuple[str, ...]

    def source(self, kind: Kind) -> str:
        """Where a kind's playbook comes from, in words."""
        return str(self.own[kind]) if kind in self.own else "package"


def choose(folder: Path | None) -> Chosen:
    """What is in force with this folder, None for no folder. Raises BadInput if a packaged playbook does not hold."""
    books, own, faults = dict(load()), dict[Kind, Path](), list[str]()
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".toml") if folder is not None else []
    except OSError as error:
        files = []
        faults.append(f"{folder}: {error.strerror}; the packaged playbooks serve; mend KERBWATCH_PLAYBOOKS")
    for file in files:
        try:
            book = read(file)
        except BadInput as error:
            faults.append(f"{error}; not used: the packaged playbook of its kind serves")
            continue
        if book.kind in own:
            faults.append(f"{file}: not used, since {own[book.kind]} is for {book.kind} too; keep one")
            continue
        books[book.kind], own[book.kind] = book, file
    return Chosen(books, own, tuple(faults))


def in_force(settings: Settings) -> Mapping[Kind, Playbook]:
    """The playbook of each kind that incidents which open now are handled by."""
    return choose(settings.playbooks).books


def text_of(file: Path) -> str:
    """A file's text. Raises BadInput for one that cannot be read, is longer than any playbook, or is no UTF-8, with the line."""
    try:
        with file.open("rb") as opened:
            body = opened.read(_LARGEST + 1)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    if len(body) > _LARGEST:
        raise BadInput(f"{file} has more than {_LARGEST} bytes: no playbook is so long")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        line = body[: error.start].count(b"\n") + 1
        raise BadInput(f"{file}, line {line}: byte {body[error.start]:#04x} is no UTF-8; save the file as UTF-8") from None


def read(file: Path) -> Playbook:
    """The playbook in a file. Raises BadInput as `text_of` and `parse`."""
    return parse(text_of(file), str(file))
