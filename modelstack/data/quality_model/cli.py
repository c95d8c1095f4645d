"""`modelstack fit-quality`: reference texts and raw ones in, a quality model with its card out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fit_quality(
    good: Annotated[list[Path], typer.Option(help="Files or folders of reference texts; may be given often.")],
    raw: Annotated[list[Path], typer.Option(help="The same of raw texts.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model, its card and its plot.")],
) -> None:
    """Fit a model of quality for the step `quality_score`."""
    from modelstack.data.quality_model.fit import MODEL_FILE, fit, thresholds, write
    from modelstack.tokenizer.documents import find_files, read_documents

    texts = [[d.text for file in find_files(paths) for d in read_documents(file)] for paths in (good, raw)]
    fitted = fit(*texts)
    write(fitted, out, sources={"good": [p.name for p in good], "raw": [p.name for p in raw]})
    typer.echo(f"AUC {fitted.model.stated['auc']:.4f} on texts held out; {out / MODEL_FILE}")
    for threshold, kept_raw, kept_good in thresholds(fitted):
        typer.echo(f"threshold {threshold:.4f} keeps {kept_raw:.1%} of raw, {kept_good:.1%} of reference texts")
