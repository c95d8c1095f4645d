"""The gate of a release: a pure function from its parts, and those of the release before, to a list of faults."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from modelstack.align.release.figures import REQUIRED, Figure, is_worse, of_part
from modelstack.align.release.licences import MAY_SHIP, Verdict, is_text_of, verdict
from modelstack.align.release.parts import Release
from modelstack.align.release.provenance import DataOfStage, lineage_of, mismatches, recorded

MAX_DIFFERENCE = 2.0**-10
"""Maximum relative difference of GGUF and safetensors: half precision rounds to 2^-11."""
CARD, LICENCE, NOTICE, BILL, RELEASE, RECORD = (
    "README.md",
    "LICENSE",
    "NOTICE",
    "bom.cdx.json",
    "release.json",
    "stage.json",
)
ADAPTER_FILES = ("adapter.gguf", "adapter_model.safetensors", "adapter_config.json")
MODEL_FILES = ("model.gguf", "model.safetensors", "config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
EVAL_RESULTS = ".eval_results/results.yaml"


@dataclass(frozen=True, slots=True)
class Fault:
    """Reason against a release."""

    part: str
    value: str
    """Value that was found."""
    rule: str
    fix: str

    def __str__(self) -> str:
        """Return the fault as a sentence."""
        return f"{self.part}: {self.value}; {self.rule}. {self.fix}"


def faults_of(
    release: Release, files: Collection[str], licence_text: str, previous: Release | None = None
) -> list[Fault]:
    """Return the faults of a release; none: it may ship.

    Args:
        release: The parts.
        files: Names in the folder, with forward slashes.
        licence_text: Content of LICENSE; empty: there is no such file.
        previous: Release before; None: figures are compared with their own `before` alone.
    """
    return [
        *_files(release, files),
        *_licence(release, licence_text),
        *_data(release),
        *_figures(release),
        *_worse(release, previous),
        *_contamination(release),
        *_parity(release),
        *_compute(release),
    ]


def required_files(release: Release) -> tuple[str, ...]:
    """Return the names that a release must have, besides checksums and signature."""
    weights = ADAPTER_FILES if release.is_adapter else MODEL_FILES
    return (*weights, *TOKENIZER_FILES, CARD, LICENCE, NOTICE, BILL, RELEASE, RECORD, EVAL_RESULTS)


def _files(release: Release, files: Collection[str]) -> Iterator[Fault]:
    for name in required_files(release):
        shards = name == "model.safetensors" and "model.safetensors.index.json" in files
        if name not in files and not shards:
            yield Fault(
                name, "missing", "a release has weights in both formats, a tokenizer and its papers", _made(name)
            )


def _made(name: str) -> str:
    if name == "model.gguf":
        return "Merge the stage with `modelstack stage merge STAGE OUT --gguf q8_0` and release that"
    if name == LICENCE:
        return "Give the text of the licence with --licence FILE"
    return "Release the stage again"


def _licence(release: Release, text: str) -> Iterator[Fault]:
    about = release.about
    for part, licence in (("licence", about.licence), ("licence of the base", about.base.licence)):
        if (found := verdict(licence)) != "may ship":
            yield _not_shipping(part, licence, found)
    if text and not is_text_of(text, about.licence):
        yield Fault(
            LICENCE,
            f"not the text of {about.licence!r}",
            "the file must be the licence that the card names",
            "Give the text with --licence FILE",
        )


def _not_shipping(part: str, licence: str, found: Verdict) -> Fault:
    return Fault(
        part,
        f"{licence!r} is {found}" if licence.strip() else "no licence is named",
        f"licences that may ship: {', '.join(sorted(MAY_SHIP))}",
        "Train without these rows, or correct the record of their licence and train again",
    )


def _data(release: Release) -> Iterator[Fault]:
    for each in mismatches(release.stage):
        yield Fault(
            f"data file {each.file!r}",
            f"{each.counted:,} of {each.n_rows:,} training rows have a {each.by}",
            "each training row must have a source and a licence",
            "Add them to the rows and train again",
        )
    if release.data[0] != recorded(release.stage):
        yield Fault(
            f"data of stage {release.stage.name!r}",
            f"{release.data[0].n_rows:,} rows under {', '.join(release.data[0].licences) or 'no licence'}",
            f"{RECORD} counts {recorded(release.stage).n_rows:,} rows by source and licence, and others",
            "Release the stage again",
        )
    known = {each.sha256 for each in release.data}
    for origin in lineage_of(release.stage):
        if origin.sha256 not in known:
            yield from _stage_data(DataOfStage(stage=origin.name, sha256=origin.sha256, proof="none"))
    if release.stage.kind != "merged" and not release.data[0].n_rows:
        yield Fault("data", "no training row is recorded", "each training row is counted", "Train again")
    for stage in release.data:
        yield from _stage_data(stage)


def _stage_data(stage: DataOfStage) -> Iterator[Fault]:
    if stage.proof == "none":
        yield Fault(
            f"data of stage {stage.stage!r}",
            f"no record of {stage.sha256[:12]}",
            "the data of every earlier stage must be known",
            "Give its folder with --earlier, or state its sources and licences under `[[earlier]]`",
        )
    for licence, n in stage.licences.items():
        if (found := verdict(licence)) != "may ship":
            rows = f", {n:,} rows of {', '.join(stage.sources)}" if n else ""
            yield _not_shipping(f"data of stage {stage.stage!r}{rows}", licence, found)


def _figures(release: Release) -> Iterator[Fault]:
    for part, command in REQUIRED.items():
        if not of_part(release.figures, part):
            yield Fault(part, "no figure", "a release reports this part", f"Measure it with `{command}`")
    now = {each.key: each for each in release.figures}
    for found in release.stage.evaluation.after:
        figure = now.get(("evaluation", found.name))
        if figure is None or figure.value != found.value:
            yield Fault(
                f"evaluation, {found.name!r}",
                "no figure" if figure is None else str(figure.measured),
                f"{RECORD} measured {found.value:.4g}",
                "Release the stage again",
            )
    for sha256 in release.measured_weights:
        if sha256 != release.weights_sha256:
            yield Fault(
                "results",
                f"measured on weights {sha256[:12]}",
                f"figures must be of the released weights, {release.weights_sha256[:12]}",
                "Measure these weights",
            )


def _worse(release: Release, previous: Release | None) -> Iterator[Fault]:
    earlier = {} if previous is None else {each.key: each for each in previous.figures}
    now = {each.key: each for each in release.figures}
    for key, figure in earlier.items():
        if key not in now:
            yield Fault(
                f"{figure.part}, {figure.name!r}",
                "no figure",
                f"release {previous.about.version if previous else ''} before reported {figure.measured}",
                f"Measure it: `{figure.command}`",
            )
    for key, figure in now.items():
        before = earlier[key].measured if key in earlier else figure.before
        if before is not None and is_worse(before, figure, figure.better):
            yield Fault(
                f"{figure.part}, {figure.name!r}",
                f"{figure.measured}, before {before}",
                f"{figure.better} is better, and it got worse beyond the 95 % interval of the difference",
                "Train again, or release the stage before",
            )


def _contamination(release: Release) -> Iterator[Fault]:
    limit = release.about.max_contamination
    for figure in of_part(release.figures, "contamination"):
        if _is_share(figure) and figure.value > limit:
            yield Fault(
                f"contamination, {figure.name!r}",
                f"{figure.measured}",
                f"at most {limit:g} of the training rows may repeat an evaluation (max_contamination)",
                "Remove these rows with the step `decontaminate` and train again",
            )


def _is_share(figure: Figure) -> bool:
    return figure.better == "lower"


def _parity(release: Release) -> Iterator[Fault]:
    if release.is_adapter and release.parity is None:
        yield Fault(
            "parity", "not compared", "GGUF and safetensors must hold the same weights", "Release the stage again"
        )
    if release.parity is not None and release.parity.max_difference > MAX_DIFFERENCE:
        yield Fault(
            "parity",
            f"relative difference {release.parity.max_difference:.3g} of {release.parity.n_tensors} tensors",
            f"GGUF and safetensors may differ by at most {MAX_DIFFERENCE:.3g}",
            "Write both files from one stage",
        )


def _compute(release: Release) -> Iterator[Fault]:
    if release.stage.kind != "merged" and not (release.compute.tokens and release.compute.seconds):
        yield Fault(
            "energy and compute",
            f"{release.compute.tokens:,} tokens in {release.compute.seconds:.1f} s",
            "the record of a training has its tokens and seconds",
            "Train again with a record of the steps",
        )
