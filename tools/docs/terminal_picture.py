"""Runs a command in a terminal of 80 columns and draws what it shows as an SVG.

    python -m tools.docs.terminal_picture docs/pictures/first-answer.svg "agentkit run ..."

The command is shown behind a prompt, as a reader would type it. Its colours are kept; the font is the reader's own
monospace font, because an SVG in a README may load nothing from elsewhere.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 80
_REWRITTEN_LINE = re.compile(r"[^\n]*\r(?!\n)")
"""A line that a progress bar wrote over."""
_CURSOR_CODES = re.compile(r"\x1b\[(?:\?25[hl]|\d*[AKJ])")
_WEB_FONT = re.compile(r"@font-face \{.*?\}", re.DOTALL)


def shown_by(command: str, folder: Path) -> str:
    """Return everything that a command shows on a terminal of `COLUMNS` columns, with colour codes."""
    main, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        with open(main, "rb", closefd=True) as output:
            read = io.BytesIO()
            try:
                while part := output.read1(65_536):
                    read.write(part)
            except OSError:  # Linux: the last writer has closed the terminal
                pass
    if process.returncode != 0:
        raise SystemExit(f"{command!r} ended with status {process.returncode}:\n{read.getvalue().decode()}")
    text = read.getvalue().decode("utf-8").replace("\r\n", "\n")
    return _REWRITTEN_LINE.sub("", _CURSOR_CODES.sub("", text))


def drawn(command: str, shown: str) -> str:
    """Return an SVG of a prompt with a command, and of what the command shows."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), command))
    console.print(Text.from_ansi(shown.strip("\n")))
    return _WEB_FONT.sub("", console.export_svg(title="agentkit"))


def main() -> None:
    """Write the picture of a command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("picture", type=Path, help="SVG file to write")
    parser.add_argument("command", help="command line, run by bash in the current folder")
    options = parser.parse_args()
    options.picture.write_text(drawn(options.command, shown_by(options.command, Path.cwd())), encoding="utf-8")
    print(f"{options.picture}: {options.picture.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
