"""A detached signature (Ed25519) of a model folder: who vouches for it.

A manifest's hashes show that nothing was altered since someone wrote the manifest, not who that was.  A signature shows
that the holder of a private key has signed this manifest; whether to trust that key is for the reader to decide.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendscan.errors import ModelError, SettingsError, WriteError
from mendscan.models.contents import read_contents
from mendscan.models.folder import ModelFolder, read_file
from mendscan.strict_json import BadJsonError, parse_json
from mendscan.volumes.writing import write_json, write_new

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SIGNATURE", "Signature", "make_key_pair", "read_signature", "sign_model"]

SIGNATURE = "manifest.sig"
_ALGORITHM = "ed25519"
_PURPOSE = b"mendscan model manifest, format 1\0"
"""Signed before the manifest, so that no other signature of the same key can be passed off as one of a model."""
_MOST_BYTES = 2**14


@dataclass(frozen=True)
class Signature:
    """A model's signature that is valid.

    Attributes:
        public_key: The signer's public key, in base64.
        trusted: The file of the trusted key that it is, None if it is none of them.
    """

    public_key: str
    trusted: Path | None


def make_key_pair(key: Path) -> Path:
    """Make a key pair: the private key, which the owner alone may read, and beside it the public one.

    Args:
        key: The file of the private key, PEM, not encrypted.

    Returns:
        The file of the public key: the same name with ``.pub``.

    Raises:
        WriteError: If either file exists or cannot be written.
        SettingsError: If the package `cryptography` is missing.
    """
    _cryptography()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made, public = Ed25519PrivateKey.generate(), key.with_name(f"{key.name}.pub")
    private = made.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    shared = made.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    for path in (key, public):
        if path.exists():  # one of a pair alone would be of no use
            raise _key_exists(path)
    for path, content, mode in ((key, private, 0o600), (public, shared, 0o644)):
        _write_key(path, content, mode)
    return public


def sign_model(folder: Path, key: Path) -> Path:
    """Sign a model folder's manifest.

    Args:
        folder: A model folder.
        key: A private key as `make_key_pair` writes it.

    Returns:
        The file written: ``manifest.sig`` in the folder; an older one is replaced.

    Raises:
        ModelError: If the folder is no model, or a file of it is not the one that was saved.
        SettingsError: If the key cannot be read, or the package `cryptography` is missing.
    """
    private = _private_key(key)
    model = read_contents(folder).folder
    write_json(
        folder / SIGNATURE,
        {
            "algorithm": _ALGORITHM,
            "public_key": _base64(private.public_key().public_bytes_raw()),
            "signature": _base64(private.sign(_PURPOSE + model.manifest)),
        },
    )
    return folder / SIGNATURE


def read_signature(model: ModelFolder, trusted: Sequence[Path] = ()) -> Signature | None:
    """Return a model's signature, None if it has none.

    Args:
        model: The model folder; what is signed are the bytes of its manifest.
        trusted: Files of public keys, one of which must have signed; with none, any valid signature counts.

    Raises:
        ModelError: E_MODEL_SIGNATURE if the signature is damaged or not one of this manifest, E_MODEL_UNTRUSTED if
            keys are given and none of them signed.
        SettingsError: If a key cannot be read, or the package `cryptography` is missing.
    """
    keys = {_public_key(path).public_bytes_raw(): path for path in trusted}
    path = model.path / SIGNATURE
    if not os.path.lexists(path):
        if trusted:
            raise _untrusted(model.path, "no signature")
        return None
    public = _verified(model, path)
    if keys and public not in keys:
        raise _untrusted(model.path, f"signed by {_base64(public)}")
    return Signature(_base64(public), keys.get(public))


def _verified(model: ModelFolder, path: Path) -> bytes:
    """Return the public key that signed."""
    _cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        values = _fields(parse_json(read_file(path, most=_MOST_BYTES)))
        Ed25519PublicKey.from_public_bytes(values["public_key"]).verify(values["signature"], _PURPOSE + model.manifest)
    except (BadJsonError, ValueError, TypeError, KeyError, binascii.Error):
        raise _bad_signature(path, "the signature is damaged") from None
    except InvalidSignature:
        raise _bad_signature(path, "the signature is not one of this model") from None
    return values["public_key"]


def _fields(values: Any) -> dict[str, bytes]:
    if set(values) != {"algorithm", "public_key", "signature"} or values["algorithm"] != _ALGORITHM:
        raise ValueError
    return {name: base64.b64decode(values[name], validate=True) for name in ("public_key", "signature")}


def _private_key(path: Path) -> Ed25519PrivateKey:
    _cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_key_bytes(path), password=None)
    except (ValueError, TypeError):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError("not an Ed25519 private key", where=path, remedy="make one with mendscan sign --new-key")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    _cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_key_bytes(path))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError("not an Ed25519 public key", where=path, remedy="give the .pub file of the one who signed")
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        return read_file(path.resolve(), most=_MOST_BYTES)
    except ModelError as error:
        raise SettingsError("the key cannot be read", where=path, found=error.problem) from None


def _write_key(path: Path, content: bytes, mode: int) -> None:
    try:
        write_new(path, content, mode=mode)
    except FileExistsError:
        raise _key_exists(path) from None
    except OSError as error:
        raise WriteError("the key cannot be written", where=path, found=error.strerror) from None


def _key_exists(path: Path) -> WriteError:
    remedy = "sign with it, without --new-key, or name another file"
    return WriteError("there is a key already", where=path, code="E_EXISTS", remedy=remedy)


def _cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise SettingsError(
            "signatures need the package cryptography", code="E_PACKAGE", remedy="pip install 'mendscan[sign]'"
        ) from None


def _bad_signature(path: Path, problem: str) -> ModelError:
    remedy = "take the model from where it was signed, or have it signed again"
    return ModelError(problem, where=path, code="E_MODEL_SIGNATURE", remedy=remedy)


def _untrusted(folder: Path, found: str) -> ModelError:
    return ModelError(
        "the model is not signed by a trusted key",
        where=folder,
        code="E_MODEL_UNTRUSTED",
        found=found,
        remedy="use it only if you know by another way where it comes from",
    )


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
