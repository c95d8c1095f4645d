"""Step 11: convention of the served file, proved by its template, and calls under the grammar."""

from __future__ import annotations

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.record import StepResult, write_json
from modelstack.posttrain.stages.card import shown

RESULTS = "results"


def work(job: StepJob) -> StepResult:
    """Answer held-back examples with the served file, as an application does.

    Raises:
        UserError: The file cannot be served.
    """
    from modelstack.data.examples import read_examples
    from modelstack.errors import UserError
    from modelstack.inference.engine import EngineError
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.posttrain.base import load_base
    from modelstack.sft.prior.exact_calls import Question, ask, chosen, lines, measured
    from modelstack.sft.rendering import render
    from modelstack.toolcalls.manner import AUTO, manner_for

    file, threads = job.of("inference/served/model.gguf"), job.recipe.threads
    encoder = load_base(file).encoder
    examples = [each for each in read_examples(job.of("data/examples/validation.jsonl")) if each.tools]
    asked = chosen(examples, job.recipe.toolcalls.tasks, job.recipe.seed)
    questions = [Question.of(each, render(each, encoder)) for each in asked]
    try:
        with LlamaCppEngine(file, n_threads=threads, n_threads_prefill=threads) as engine:
            manner = manner_for(engine, AUTO, is_ours=True, abstain=True)
            told, log = manner.convention.name, job.say
            answered = ask(engine, questions, max_tokens=job.recipe.toolcalls.max_tokens, told=log)
    except EngineError as error:
        raise UserError(str(error)) from error
    figures = measured(answered)
    folder = job.folder / RESULTS
    folder.mkdir(exist_ok=True)
    (folder / "replies.jsonl").write_text("".join(lines(answered)), encoding="utf-8")
    exact = figures[0]
    write_json(
        folder / "calls.json",
        {"convention": told, "figures": [each.model_dump(mode="json") for each in figures]},
    )
    return StepResult(
        what=f"convention {told}; {exact.value:.1%} of {exact.n} replies exactly right under the grammar",
        content=(RESULTS,),
        facts={"convention": told, "exact replies": round(exact.value, 4)},
        table=(("figure", "served file"), *((each.name, shown(each)) for each in figures)),
    )
