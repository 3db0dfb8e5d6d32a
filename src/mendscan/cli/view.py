"""Looking at results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import reports_errors

__all__ = ["view"]


@app.command()
@reports_errors
def view(
    results: Annotated[Path, typer.Option("--input", "-i", help="Results folder that mendscan detect wrote.")],
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one; 8765 by default, if it is free.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than this machine's own needs a token.")
    ] = "127.0.0.1",
    token: Annotated[str | None, typer.Option(help="A secret that every request must know; auto makes one.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Look at results on a local page: scan, map and restoration in three planes and 3-D, findings, slice scores.

    Example: mendscan view -i results --open
    """
    import logging
    import webbrowser

    from rich.markup import escape

    from mendscan.console_progress import console
    from mendscan.viewer.access import Access, is_loopback
    from mendscan.viewer.serving import serve

    def ready(address: str, access: Access) -> None:
        console.print(f"open [bold]{escape(address)}[/bold]  (Ctrl-C ends it)", soft_wrap=True)
        console.print("Research use only; not a medical device.")
        if not is_loopback(host):
            console.print(
                "[yellow]warning: other machines can reach this page, and what it shows travels unencrypted; "
                "whoever has the address above can see the scans[/yellow]"
            )
        if open_browser:
            webbrowser.open(address)

    reading = logging.getLogger("mendscan.volumes")
    before = reading.level
    reading.setLevel(logging.ERROR)  # what it would warn of, the page says
    try:
        serve(results, host=host, port=port, token=token, on_ready=ready)
    finally:
        reading.setLevel(before)
