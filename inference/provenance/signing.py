"""Signs folders in the OpenSSF model-signing format, and says which file of a signed folder is not what was signed.

It decides whether a folder holds exactly the files that the deployment's key signed: none changed, none more, none fewer. It
refuses a signature by a key that is not trusted here (`infra.keys.model_keys`), and to write into a folder that is there already.
The signature lies in the folder (`model.sig`, a Sigstore bundle around an in-toto statement) and is read by any tool of that
format. No topic feeds it.

Source: paper SC-6 (model integrity); OpenSSF Model Signing v1.0 (predicate https://model_signing/signature/v1.0), DSSE 1.0.
"""

import base64
import binascii
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.files import write_whole
from streams.errors import Tampered, Unavailable

SIGNATURE = "model.sig"
_LARGEST_SIGNATURE = 64 * 1024
_KEY_ID = re.compile(r"[0-9a-f]{64}")


def write_signed(target: Path, contents: Mapping[str, bytes], keys: Path | None) -> bool:
    """Make the folder `target` of these files, whole or not at all, read-only and signed; False if it is there already.

    Args:
        target: whose parent is made where it is missing.
        contents: file name to bytes.
        keys: folder of the signing key; None leaves the folder unsigned, as for a registry that lives for one measurement.

    Raises:
        Unavailable: if there is no signing key.
    """
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".put-", dir=target.parent))
    try:
        fresh = scratch / target.name  # the signature names the folder
        fresh.mkdir()
        for name, content in contents.items():
            write_whole(fresh / name, content, 0o444)
        if keys is not None:
            sign(fresh, keys)
        fresh.rename(target)
    except OSError:
        if not target.exists():  # else somebody else made the same a moment before
            raise
        return False
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def sign(folder: Path, keys: Path) -> None:
    """Write `model.sig` over all other files of the folder. Raises Unavailable if there is no signing key."""
    key = keys / "signing.key"
    if not key.is_file():
        raise Unavailable(f"no key to sign models with at {key}: run `kerbwatch keys init`")
    from model_signing import signing  # noqa: PLC0415 - takes a second; most who use the registry sign nothing

    config = signing.Config().set_hashing_config(_hashing()).use_elliptic_key_signer(private_key=key)
    with tempfile.TemporaryDirectory(prefix=".sign-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / SIGNATURE
        config.sign(folder, fresh)
        fresh.chmod(0o444)
        fresh.replace(folder / SIGNATURE)


def verify(folder: Path, keys: Path) -> str:
    """The id of the trusted key that signed exactly what is in the folder.

    Raises Tampered, naming the file that is wrong, or Unavailable if the folder has no signature.
    """
    path = folder / SIGNATURE
    key_id = _signer(path)
    public = keys / f"{key_id}.pub"
    if not public.is_file():
        raise Tampered(f"{path} is by key {key_id[:12]}, which is not trusted: do not serve it; restore the file, or stage again")
    from model_signing import verifying  # noqa: PLC0415 - as above

    config = verifying.Config().set_hashing_config(_hashing()).use_elliptic_key_verifier(public_key=public)
    try:
        config.verify(folder, path)
    except ValueError as error:
        if wrong := _wrong(folder):
            raise Tampered(f"{folder}: {wrong}; do not serve it, restore it from a trusted copy") from error
        raise _damaged(path) from error
    except Exception as error:
        # the library lets many kinds out (cryptography's, pydantic's, KeyError): whatever it is, nothing was verified
        raise _damaged(path) from error
    return key_id


def _hashing() -> Any:
    from model_signing import hashing  # noqa: PLC0415 - as above

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _signer(path: Path) -> str:
    """Which key a signature names; nothing is proven by it. Refuses a bundle that says the same in other bytes."""
    try:
        if path.stat().st_size > _LARGEST_SIGNATURE:
            raise _damaged(path)
        text = path.read_bytes().decode()
        bundle = json.loads(text)
        envelope = bundle["dsseEnvelope"]
        coded = [envelope["payload"], *(signature["sig"] for signature in envelope["signatures"])]
        plain = all(base64.b64encode(base64.b64decode(part, validate=True)).decode() == part for part in coded)
        if json.dumps(bundle, separators=(",", ":")) != text or not plain:
            raise _damaged(path)
        key_id = str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except FileNotFoundError as error:
        raise Unavailable(
            f"{path.parent} is not signed: `kerbwatch setup` signs the shipped models, `models stage` others"
        ) from error
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise _damaged(path) from error
    if not _KEY_ID.fullmatch(key_id):
        raise _damaged(path)
    return key_id


def _wrong(folder: Path) -> str:
    """Which files differ from what the signature lists, in plain words; empty where it is the signature that is wrong."""
    try:
        bundle = json.loads((folder / SIGNATURE).read_bytes())
        listed = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))["predicate"]["resources"]
        signed = {str(one["name"]): str(one["digest"]) for one in listed}
    except (ValueError, KeyError, TypeError):
        return ""
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    there.pop(SIGNATURE)
    found = [f"{name} is missing" for name in sorted(set(signed) - set(there))]
    for name, path in sorted(there.items()):
        if name not in signed:
            found.append(f"{name} was added")
        else:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != signed[name]:
                    found.append(f"{name} was changed")
    return ", ".join(found)


def _damaged(path: Path) -> Tampered:
    return Tampered(f"{path} is no signature that holds: do not serve this; restore the file from a trusted copy")
