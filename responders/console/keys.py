"""`kerbwatch keys rotate`: new keys, by somebody who may and shows a second factor.

It decides nothing; it refuses whoever the desk refuses, and to rotate the keys that things are sealed with. No topic feeds it.

Source: paper 4.5.4 (key management), SC-10.
"""

from typing import Annotated

import typer

from infra import certificates, keys
from infra.certificates import utc_now
from infra.cli import AsJson, show_made
from responders.console.tables import Comment
from responders.people.access import Deed
from responders.people.login import Actor, Code, logged_in


def rotate(  # noqa: PLR0917 - typer makes options of them
    comment: Comment,
    camera: Annotated[list[str] | None, typer.Option(help="Rotate only this camera's signing key; repeatable.")] = None,
    models: Annotated[bool, typer.Option("--models", help="Rotate only the key that models are signed with.")] = False,
    actor: Actor = None,
    code: Code = None,
    as_json: AsJson = False,
) -> None:
    """Make all certificates anew, or only the named keys. Example: `kerbwatch keys rotate --camera gate-1 -m "camera replaced"`.

    Frames signed with a camera's old key are refused from then on. Models signed with the old key stay trusted until its public
    file in keys/models is removed. The keys that frames and second factors are sealed with stay, or nothing sealed could be opened.
    """
    cameras = camera or []
    what = ", ".join([*(["models"] if models else []), *(f"camera {one}" for one in cameras)]) or "certificates"
    with logged_in(actor, code) as login:
        login.does(Deed.ROTATE_KEYS, what, comment)
        settings = login.settings
    for camera_id in cameras:
        keys.camera_key(settings, camera_id, rotate=True)
    if models:
        typer.echo(f"models are signed with key {keys.model_key(settings, rotate=True)[:12]} from now on", err=True)
    made = () if cameras or models else certificates.make_certificates(settings, utc_now(), rotate=True)
    show_made(settings, made, cameras, as_json=as_json)
    if made:
        typer.echo(
            "next: `kerbwatch down` and `kerbwatch up`, so that the broker and all processes take the new certificates", err=True
        )
