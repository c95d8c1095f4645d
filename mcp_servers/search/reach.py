"""Reach of the search server's process."""

from __future__ import annotations

import sys

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server read FOLDER and the embedding model, and read and change the folder of its "
    "index. It may start Python (for HTML and PDF) and connect to nothing."
)


def reach(folder: str, index_folder: str, model_folder: str | None = None) -> Confinement:
    """Return the confinement of a server for `folder` with its index in `index_folder`.

    `model_folder` holds the embedding model, if the server has one.
    """
    return Confinement(
        reads=(folder,) if model_folder is None else (folder, model_folder),
        writes=(index_folder,),
        executes=(sys.executable,),
        has_temporary_folder=True,  # for large sorts
    )
