"""Models from others: what they are, whether they are whole, who vouches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import reports_errors

__all__ = ["sign", "verify"]

ModelArgument = Annotated[Path, typer.Argument(help="Model folder.")]


@app.command()
@reports_errors
def verify(
    model: ModelArgument,
    trusted: Annotated[
        list[Path] | None,
        typer.Option("--trusted", help="Public key that must have signed; may be repeated: then one of them."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every byte of a model without building it, and say what it is.

    Example: mendscan verify model --trusted hospital.pub
    """
    from mendscan.console_models import show_refusal, show_verification
    from mendscan.detection.verifying import verify_model
    from mendscan.errors import MendscanError

    try:
        show_verification(verify_model(model, trusted=trusted or ()), model, as_json=as_json)
    except MendscanError as error:
        if as_json:
            show_refusal(error, model)
        raise


@app.command()
@reports_errors
def sign(
    model: ModelArgument,
    key: Annotated[Path, typer.Option("--key", help="Private key (Ed25519, PEM).")],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make the key pair first: KEY, for you alone, and KEY.pub.")
    ] = False,
) -> None:
    """Sign a model: a detached signature of its manifest, in manifest.sig.

    Example: mendscan sign model --key hospital --new-key
    """
    from mendscan.console_models import show_signed
    from mendscan.detection.signing import make_key_pair, sign_model
    from mendscan.models.contents import read_contents

    if new_key:
        read_contents(model)  # no key for a folder that cannot be signed
        make_key_pair(key)
    show_signed(sign_model(model, key), key, made=new_key)
