"""Which jars make up the broker, each pinned by SHA-256, fetched once and checked before every use.

It decides what Java code may run; it refuses any file whose hash is not in `jars.lock`, wherever that file came from.
No topic feeds it. `python -m infra.jars > infra/jars.lock` resolves ENDPOINT anew after its version was changed on purpose.

Source: paper SC-6 (software supply chain); the coordinates are Apache Kafka's and Log4j's own on Maven Central.
"""

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from streams.errors import Tampered, Unavailable

KAFKA_VERSION = "4.1.1"
ENDPOINT = "+".join(
    (
        f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
        # Named on its own: left to resolution it becomes 3.9.1, and the broker dies of NoSuchMethodError.
        f"org.apache.kafka:kafka-clients:{KAFKA_VERSION}",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.1",
        "org.apache.logging.log4j:log4j-core:2.25.1",
    )
)
LOCK = "jars.lock"
_DOWNLOADS_AT_ONCE = 6


@dataclass(frozen=True)
class Jar:
    """One pinned Maven artefact: `group:artifact:version`, lower-case hex SHA-256, and size in bytes."""

    coordinate: str
    sha256: str
    size_bytes: int

    @property
    def file(self) -> str:
        """Its file name."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def pinned() -> tuple[Jar, ...]:
    """The jars of `jars.lock`, in class path order."""
    lines = files("infra").joinpath(LOCK).read_text(encoding="utf-8").splitlines()
    rows = (line.split() for line in lines if line and not line.startswith("#"))
    return tuple(Jar(coordinate, sha256, int(size)) for coordinate, sha256, size in rows)


def jar_files(cache: Path) -> tuple[Path, ...]:
    """The pinned jars as verified files under `cache`, downloading what is missing (43 MB, once).

    Raises:
        Unavailable: a jar is neither cached nor to be had from Maven Central, or the cache cannot be read or written.
        Tampered: a jar's bytes are not the pinned ones.
    """
    folder = cache / "jars"
    jars = pinned()
    with _told(folder):
        missing = [jar for jar in jars if not (folder / jar.file).is_file()]
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            _download(missing, folder)
        for jar in jars:
            _check(jar, folder / jar.file)
    return tuple(folder / jar.file for jar in jars)


def missing(cache: Path) -> tuple[str, ...]:
    """File names of pinned jars that are not under `cache` yet. Raises Unavailable where that cannot be seen."""
    with _told(cache / "jars"):
        return tuple(jar.file for jar in pinned() if not (cache / "jars" / jar.file).is_file())


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"Kafka's jars cannot be kept in {folder} ({error.strerror or error}): make room there, or set KERBWATCH_CACHE to a "
            "folder that this user may write"
        ) from error


def _check(jar: Jar, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise Tampered(
            f"{path} is not the pinned {jar.coordinate} (SHA-256 {found}, expected {jar.sha256}): delete it and run "
            "`kerbwatch kafka up` again; if the version was changed on purpose, `python -m infra.jars > infra/jars.lock`"
        )


def _download(jars: list[Jar], folder: Path) -> None:
    console = Console(stderr=True)
    console.print(
        f"Fetching {len(jars)} jars of Apache Kafka {KAFKA_VERSION} from Maven Central, once, into {folder}", soft_wrap=True
    )
    bar = Progress(TextColumn("jars"), BarColumn(), DownloadColumn(), console=console, disable=not console.is_terminal)
    # Fetched beside the folder and moved in when verified, so that what lies in it is whole even if two runs fetch at once.
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as scratch,
        ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool,
        bar,
    ):
        task = bar.add_task("jars", total=sum(jar.size_bytes for jar in jars))
        pending = {pool.submit(_fetch, jar, Path(scratch), folder): jar for jar in jars}
        try:
            for done in as_completed(pending):
                done.result()
                bar.advance(task, pending[done].size_bytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(jar: Jar, scratch: Path, folder: Path) -> None:
    from jgo.maven import MavenContext  # noqa: PLC0415 - its imports take a second, and jars are fetched once

    group, artifact, version = jar.coordinate.split(":")
    context = MavenContext(repo_cache=scratch, timeout=30)
    try:
        path = context.project(group, artifact).at_version(version).artifact().resolve()
    except (OSError, RuntimeError) as error:  # a failed request is an OSError
        raise Unavailable(
            f"{jar.file} is not in {folder} and Maven Central does not give it ({type(error).__name__}): connect this machine once "
            "and run `kerbwatch kafka up`, or copy the folder `jars` from a machine that has it to KERBWATCH_CACHE"
        ) from error
    _check(jar, path)
    path.replace(folder / jar.file)


def resolve() -> str:
    """The text of a fresh `jars.lock`: every jar that ENDPOINT needs, with its hash, as Maven Central gives it now."""
    import jgo  # noqa: PLC0415 - as above

    rows = [f"# What `python -m infra.jars` resolved for {ENDPOINT}", "# coordinate, SHA-256, bytes"]
    for artifact in sorted(jgo.resolve(ENDPOINT), key=str):
        data = artifact.resolve().read_bytes()
        rows.append(f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} {hashlib.sha256(data).hexdigest()} {len(data)}")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(resolve())
