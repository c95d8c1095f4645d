"""Step 3: byte-pair encoding learnt from the training side of the text, and its report on the held-out side."""

from __future__ import annotations

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.material.texts import held_out_share
from modelstack.pipeline.record import StepResult
from modelstack.pipeline.work.comparisons import FOLDER as COMPARISON
from modelstack.pipeline.work.comparisons import comparisons
from modelstack.recipe_file import checked_recipe

FOLDER, REPORT = "tokenizer", "report"
OWN_KEYS = {"megabytes", "compared_steps", "compared_seeds"}
"""Keys of the table that are not settings of a tokenizer."""


def work(job: StepJob) -> StepResult:
    """Train the tokenizer and report on it.

    Raises:
        UserError: The text is too short, or a setting is not allowed.
    """
    from modelstack.tokenizer.documents import find_files, sample_documents
    from modelstack.tokenizer.report import CostModel, build_report
    from modelstack.tokenizer.report_output import store_report
    from modelstack.tokenizer.tokenizer_folder import load_tokenizer, save_tokenizer
    from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer

    table = job.recipe.tokenizer
    config = checked_recipe(TokenizerConfig, table.model_dump(exclude=OWN_KEYS))
    files, share = find_files([job.of("data/text")]), held_out_share(job)
    limit = None if table.megabytes is None else int(1e6 * table.megabytes)
    learnt = train_tokenizer((d.text for d in sample_documents(files, limit, held_out=False, share=share)), config)
    save_tokenizer(learnt, job.folder / FOLDER)
    documents = sample_documents(files, int(2e6), held_out=True, share=share)
    named = {"own": load_tokenizer(job.folder / FOLDER)}
    report = build_report(named, documents, cost=CostModel(width=128, tied=True, body_parameters=1_000_000))
    store_report(report, job.folder / REPORT)
    n_ids = learnt.tokenizer.get_vocab_size()
    n_bytes = sum(len(d.text.encode()) for d in documents)
    n_tokens = sum(len(named["own"].encode(d.text)) for d in documents)
    per_token = n_bytes / n_tokens
    rows: tuple[tuple[str, ...], ...] = ()
    content = [FOLDER]
    if table.compared_steps:
        rows = comparisons(job, job.folder / FOLDER, table.compared_steps, table.compared_seeds)
        content.append(COMPARISON)
    return StepResult(
        what=f"{n_ids:,} ids from {learnt.n_documents:,} documents; {per_token:.2f} held-out bytes a token",
        content=tuple(content),
        facts={"ids": n_ids, "bytes per token": round(per_token, 4), "documents": learnt.n_documents},
        table=rows,
    )
