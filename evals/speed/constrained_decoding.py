"""Cost and savings of constrained decoding: forced tokens, jump-ahead, and mask time of each engine.

Four measurements in one run, on the gold calls of BFCL's simple and multiple in compact form:

1. Forced share: tokens with only one legal continuation, on all calls, without a model.
2. Wall time of a call with and without jump-ahead. Both are teacher-forced through the real decode loop to the
   same tokens (a wrapper around the grammar leaves only the recorded token legal). The prompt is already in the
   cache, runs are interleaved, and the ratio is that of the sums.
3. Free-running greedy calls, with and without jump-ahead: whether they parse to the same object.
4. Seconds of one token mask, at every step of the same calls: agentkit on llguidance, llguidance alone, agentkit
   on lm-format-enforcer, and llama.cpp's own grammar (GBNF, through llama-cpp-python).

    python -m evals.speed.constrained_decoding [--bfcl FOLDER]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llguidance
import numpy as np

from agentkit import LocalModel
from evals.speed.bfcl_calls import GoldCall, load
from evals.speed.results import (
    BenchmarkResult,
    Comparison,
    Figure,
    add_result_option,
    write_result,
)
from modelstack.inference.engine import Engine, GenerateRequest, Generation
from modelstack.inference.grammar import Grammar, TokenMask
from modelstack.tokenizer.chat import ChatEncoder, ChatMessage
from modelstack.tokenizer.chat_template import chat_encoder
from modelstack.toolcalls.convention import ResponseFormat, ToolSpec
from modelstack.toolcalls.conventions import JSON_LIST
from modelstack.toolcalls.grammar.compiler import GrammarCompiler
from modelstack.toolcalls.grammar.llguidance_engine import LIMITS, build_tokenizer, lark_grammar
from modelstack.toolcalls.grammar.schemas import normalise
from modelstack.toolcalls.grammar.tokens import is_set
from modelstack.toolcalls.marks import Marks
from modelstack.toolcalls.prompt import tools_prompt

MIN_FORCED_SHARE = 0.5
MAX_TIME_RATIO = 0.65
MAX_OVERHEAD_US = 20.0
SEED = 7


class Taught:
    """A grammar that leaves only the next token of a given reply legal; its masks are still computed.

    With `follow=None`, the next token is the canonical token of the remaining text wherever the inner grammar
    allows several.
    """

    def __init__(self, inner: Grammar, text: str, engine: Engine, follow: Sequence[int] | None = None) -> None:
        self._inner = inner
        self._text = text.encode()
        self._engine = engine
        self._follow = follow
        self._at = 0
        self._lengths: list[int] = []
        """Bytes of each token of the reply so far."""
        self._mask: TokenMask = np.zeros((len(engine.vocabulary) + 31) // 32, dtype=np.uint32)

    @property
    def finished(self) -> bool:
        return self._inner.finished

    @property
    def accepting(self) -> bool:
        return self._inner.accepting

    @property
    def choosing(self) -> bool:
        return self._inner.choosing

    @property
    def decision(self) -> TokenMask | None:
        return None

    @property
    def stand_in(self) -> None:
        return None

    @property
    def closing_reserve(self) -> int:
        return 0

    def mask(self) -> TokenMask:
        legal = self._inner.mask()
        token = self.next_token()
        if not is_set(legal, token):
            raise ValueError(f"the grammar refuses token {token} of {self._text.decode()!r} at byte {self._at}")
        self._mask[:] = 0
        self._mask[token >> 5] = np.uint32(1 << (token & 31))
        return self._mask

    def closing(self) -> TokenMask:
        return self.mask()

    def forced(self) -> list[int]:
        return self._inner.forced()

    def n_legal(self, ids: Sequence[int]) -> int:
        return self._inner.n_legal(ids)

    def advance(self, token_id: int) -> None:
        self._inner.advance(token_id)
        self._lengths.append(len(self._engine.vocabulary.token_bytes[token_id]))
        self._at += self._lengths[-1]

    def rollback(self, n_tokens: int) -> None:
        self._inner.rollback(n_tokens)
        for _ in range(n_tokens):
            self._at -= self._lengths.pop()

    def next_token(self) -> int:
        """Return the next token of the reply."""
        if self._follow is not None:
            return self._follow[len(self._lengths)]
        if self._at >= len(self._text):
            return self._engine.vocabulary.end_ids[0]
        return self._engine.vocabulary.encode(self._text[self._at :].decode())[0]


@dataclass
class Bench:
    """State shared by all four measurements."""

    engine: Engine
    encoder: ChatEncoder
    compiler: GrammarCompiler
    calls: list[GoldCall]
    failures: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    def response_format(self, call: GoldCall) -> ResponseFormat:
        """Return the format that the agent's runtime would allow: a call or a text answer."""
        return ResponseFormat(tools=call.tools)

    def prompt(self, call: GoldCall) -> list[int]:
        """Return the prompt as the runtime renders it."""
        messages = [ChatMessage("system", tools_prompt(call.tools)), ChatMessage("user", call.question)]
        return self.encoder.encode(messages).ids + self.encoder.generation_ids("user")

    def generate(self, call: GoldCall, grammar: Grammar, *, jump_ahead: bool) -> tuple[Generation, float]:
        """Run the real decode loop; return the reply and its seconds."""
        request = GenerateRequest(
            prompt_ids=self.prompt(call), max_tokens=512, grammar=grammar, jump_ahead=jump_ahead
        )
        start = time.perf_counter()
        generation = self.engine.generate(request)
        return generation, time.perf_counter() - start

    def warm(self, call: GoldCall) -> None:
        """Store the prompt in the cache."""
        self.engine.generate(GenerateRequest(prompt_ids=self.prompt(call), max_tokens=1))


def forced_share(bench: Bench) -> bool:
    """Walk all gold calls without a model; report and check the share of forced tokens."""
    n_forced = n_total = n_steps = diverged = refused = 0
    for call in bench.calls:
        try:
            taught = Taught(bench.compiler.compile(bench.response_format(call)).start(), call.text, bench.engine)
            ids: list[int] = []
            while not taught.finished:
                block = taught.forced()
                n_forced += len(block)
                if not block:
                    taught.mask()
                    block = [taught.next_token()]
                    n_steps += 1
                for token in block:
                    taught.advance(token)
                ids += block
        except ValueError as error:
            refused += 1
            bench.failures.append(f"{call.case_id}: {error}")
            continue
        n_total += len(ids)
        diverged += ids != bench.engine.vocabulary.encode(call.text)
    share = n_forced / n_total
    n_done = len(bench.calls) - refused
    print(f"\n1. forced tokens, {n_done} gold calls ({refused} violate their own schema and are left out)")
    print(f"   {n_total} tokens, {n_forced} forced: share {share:.3f} (bound {MIN_FORCED_SHARE})")
    print(f"   {n_total / n_done:.1f} tokens and {n_steps / n_done:.1f} model steps per call")
    print(f"   {diverged} calls tokenised differently from the whole text")
    bench.figures.append(
        Figure("share of forced tokens", share, "of tokens", bound=MIN_FORCED_SHARE, bound_kind="at least")
    )
    return share >= MIN_FORCED_SHARE


def jump_ahead(bench: Bench, calls: list[GoldCall]) -> bool:
    """Time the same tokens with and without jump-ahead; return whether the bound holds."""
    seconds = {True: 0.0, False: 0.0}
    n_tokens = n_forward = 0
    ratios: list[float] = []
    done = 0
    for number, call in enumerate(calls):
        compiled = bench.compiler.compile(bench.response_format(call))
        bench.warm(call)
        try:
            recorded, _ = bench.generate(call, Taught(compiled.start(), call.text, bench.engine), jump_ahead=True)
        except ValueError:
            continue  # counted in the first measurement
        one: dict[bool, float] = {}
        for jump in (True, False) if number % 2 else (False, True):
            grammar = Taught(compiled.start(), call.text, bench.engine, [*recorded.ids, 0])
            generation, one[jump] = bench.generate(call, grammar, jump_ahead=jump)
            assert generation.ids == recorded.ids, (generation.ids, recorded.ids)
            seconds[jump] += one[jump]
            if jump:
                n_forward += generation.stats.forward_calls + 1
        ratios.append(one[True] / one[False])
        n_tokens += len(recorded.ids)
        done += 1
    ratio = seconds[True] / seconds[False]
    low, high = _bootstrap(ratios)
    print(f"\n2. wall time of a call, {done} calls teacher-forced to the same tokens")
    print(f"   {n_tokens / done:.1f} tokens in {n_forward / done:.1f} model calls with jump-ahead")
    print(
        f"   with {seconds[True] / done:.3f} s, without {seconds[False] / done:.3f} s: ratio {ratio:.3f} "
        f"(bound {MAX_TIME_RATIO}); 95 % interval of the mean ratio per call {low:.3f} to {high:.3f}"
    )
    bench.figures.append(
        Figure("wall time of a call, with jump-ahead to without", ratio, "x", low, high, bound=MAX_TIME_RATIO)
    )
    means = {"with jump-ahead": seconds[True] / done, "without": seconds[False] / done}
    bench.comparisons.append(Comparison("wall time of a call", "s", "with jump-ahead", means))
    return ratio <= MAX_TIME_RATIO


def free_running(bench: Bench, calls: list[GoldCall]) -> bool:
    """Compare greedy replies decoded with and without jump-ahead; return whether all are equal."""
    different: list[str] = []
    for call in calls:
        response_format = ResponseFormat(tools=call.tools, answer=None, parallel=False)
        compiled = bench.compiler.compile(response_format)
        texts = [
            bench.engine.vocabulary.decode(bench.generate(call, compiled.start(), jump_ahead=jump)[0].ids)
            for jump in (True, False)
        ]
        if json.loads(texts[0]) != json.loads(texts[1]):
            different.append(f"{call.case_id}: {texts[0]} / {texts[1]}")
    print(
        f"\n3. free-running greedy calls: {len(calls) - len(different)} of {len(calls)} parse to the same object"
    )
    for line in different:
        print(f"   {line}")
    bench.figures.append(
        Figure("greedy calls that differ with jump-ahead", float(len(different)), f"of {len(calls)}", bound=0.0)
    )
    return not different


def mask_times(bench: Bench, calls: list[GoldCall]) -> bool:
    """Time the mask of each engine at every step of the same calls; return whether the bound holds."""
    lmfe = GrammarCompiler(bench.engine.vocabulary, "lm-format-enforcer", "check")
    tokenizer = build_tokenizer(bench.engine.vocabulary)
    gbnf = LlamaCppGrammar(bench.engine)
    times: dict[str, list[float]] = {}
    ours_minus_raw: list[float] = []
    skipped = 0
    for call in calls:
        ids = bench.engine.vocabulary.encode(call.text)
        response_format = ResponseFormat(tools=call.tools, answer=None, parallel=False)
        ours = bench.compiler.compile(response_format)
        _walk(ours.start(), ids)  # both libraries build lexer states lazily, so the second walk is measured
        first = _walk(ours.start(), ids)
        raw = _walk_llguidance(tokenizer, response_format, ids)
        _extend(times, "agentkit on llguidance", first)
        _extend(times, "llguidance alone", raw)
        ours_minus_raw += [a - b for a, b in zip(first or [], raw or [], strict=False)]
        _extend(times, "agentkit on lm-format-enforcer", _walk(lmfe.compile(response_format).start(), ids))
        own = gbnf.walk(call, ids)
        skipped += own is None
        _extend(times, "llama.cpp's own grammar", own)
    overhead = 1e6 * float(np.median(ours_minus_raw))
    print(f"\n4. one mask, microseconds, at every step of {len(calls)} calls (V = {len(bench.engine.vocabulary)})")
    print(f"   {'':32}{'median':>10}{'p99':>10}{'masks':>8}{'x llguidance':>14}")
    base = float(np.median(times["llguidance alone"]))
    for name, values in times.items():
        median, p99 = np.percentile(values, [50, 99]) * 1e6
        print(f"   {name:32}{median:10.1f}{p99:10.1f}{len(values):8}{median / base / 1e6:14.1f}")
    print(f"   llama.cpp's grammar refused or did not compile {skipped} of {len(calls)} gold calls")
    print(f"   agentkit's overhead on llguidance's mask: median {overhead:.1f} us (bound {MAX_OVERHEAD_US:g})")
    bench.figures.append(Figure("our median overhead on llguidance's mask", overhead, "us", bound=MAX_OVERHEAD_US))
    medians = {name: 1e6 * float(np.median(values)) for name, values in times.items() if values}
    bench.comparisons.append(Comparison("one token mask, median", "us", "agentkit on llguidance", medians))
    return overhead <= MAX_OVERHEAD_US


def _walk(grammar: Grammar, ids: Sequence[int]) -> list[float] | None:
    """Return the seconds of each mask along `ids`, or None if a token is refused."""
    times: list[float] = []
    for token in ids:
        start = time.perf_counter()
        mask = grammar.mask()
        times.append(time.perf_counter() - start)
        if not is_set(mask, token):
            return None
        grammar.advance(token)
    return times


def _walk_llguidance(
    tokenizer: llguidance.LLTokenizer, response_format: ResponseFormat, ids: Sequence[int]
) -> list[float] | None:
    schemas = {tool.name: normalise(tool.parameters, is_arguments=True) for tool in response_format.tools}
    text = lark_grammar(response_format, JSON_LIST.form, Marks(), schemas, None)
    grammar = llguidance.LLMatcher.grammar_from_lark(text)
    template = llguidance.LLMatcher(tokenizer, grammar, limits=_limits(), log_level=0)
    mask = np.zeros((tokenizer.vocab_size + 31) // 32, dtype=np.uint32)
    times: list[float] = []
    for measured in (False, True):
        matcher = template.deep_copy()
        for token in ids:
            start = time.perf_counter()
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            if measured:
                times.append(time.perf_counter() - start)
            if not matcher.consume_token(token):
                return None
    return times


def _limits() -> llguidance.LLParserLimits:
    options: dict[str, Any] = dict(LIMITS)
    return llguidance.LLParserLimits(**options)


class LlamaCppGrammar:
    """llama.cpp's grammar sampler, called through llama-cpp-python; it tests every token of the vocabulary."""

    def __init__(self, engine: Engine) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        weights: Any = getattr(engine, "_weights")  # noqa: B009 - not part of the Engine protocol
        self._vocab = self._lib.llama_model_get_vocab(weights.model)
        n = len(engine.vocabulary)
        self._n = n
        self._data = (llama_cpp.llama_token_data * n)()
        self._template = (llama_cpp.llama_token_data * n)(
            *[llama_cpp.llama_token_data(i, 0.0, 0.0) for i in range(n)]
        )
        buffer: Any = self._data
        self._view = np.frombuffer(buffer, dtype=[("id", "i4"), ("logit", "f4"), ("p", "f4")])

    def walk(self, call: GoldCall, ids: Sequence[int]) -> list[float] | None:
        """Return the seconds of each mask, or None if the grammar does not compile or refuses the gold call."""
        lib = self._lib
        one = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.name},
                    "arguments": normalise(tool.parameters, is_arguments=True),
                },
                "required": ["name", "arguments"],
            }
            for tool in call.tools
        ]
        schema = {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": 1}
        try:
            grammar = lib.LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
        except (ValueError, KeyError, TypeError, RecursionError, AssertionError):
            return None
        sampler = lib.llama_sampler_init_grammar(self._vocab, grammar._grammar.encode(), b"root")
        if not sampler:
            return None
        times: list[float] = []
        try:
            for token in ids:
                ctypes.memmove(self._data, self._template, ctypes.sizeof(self._template))
                array = lib.llama_token_data_array(self._data, self._n, -1, False)
                start = time.perf_counter()
                lib.llama_sampler_apply(sampler, ctypes.byref(array))
                times.append(time.perf_counter() - start)
                if np.isneginf(self._view["logit"][token]):
                    return None  # accepting a refused token would end the process
                lib.llama_sampler_accept(sampler, token)
        finally:
            lib.llama_sampler_free(sampler)
        return times


def _call_schema(tool: ToolSpec) -> dict[str, Any]:
    """Return a schema of one call, for engines that accept only a JSON Schema."""
    arguments = normalise(tool.parameters, is_arguments=True)
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
    }


def _extend(times: dict[str, list[float]], name: str, values: list[float] | None) -> None:
    times.setdefault(name, []).extend(values or [])


def _bootstrap(values: list[float]) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean."""
    rng = np.random.default_rng(SEED)
    means = rng.choice(values, size=(2000, len(values))).mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def main() -> int:
    """Measure, print the report, and return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bfcl", type=Path, help="data folder of bfcl-eval; default: the wheel is fetched")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--timed", type=int, default=100, help="number of calls timed with the model")
    parser.add_argument("--free", type=int, default=60, help="number of calls decoded freely")
    parser.add_argument("--masked", type=int, default=100, help="number of calls whose masks are timed")
    add_result_option(parser)
    options = parser.parse_args()
    model = LocalModel(options.model, prompt_cache_bytes=0)
    engine = model.load()
    compiler = GrammarCompiler(engine.vocabulary, "llguidance", "check", cache_size=1000)
    encoder = chat_encoder(engine)
    calls = load(options.bfcl)
    random.Random(SEED).shuffle(calls)
    bench = Bench(engine, encoder, compiler, calls)
    threads = getattr(engine, "threads", None)
    print(f"{options.model}, {threads}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, seed {SEED}")
    steps: list[Callable[[], bool]] = [
        lambda: forced_share(bench),
        lambda: jump_ahead(bench, calls[: options.timed]),
        lambda: free_running(bench, calls[: options.free]),
        lambda: mask_times(bench, calls[: options.masked]),
    ]
    results = [step() for step in steps]
    model.close()
    parameters = {"model": options.model, "threads": str(threads), "seed": str(SEED)}
    parameters |= {key: str(getattr(options, key)) for key in ("timed", "free", "masked")}
    write_result(
        options.result,
        BenchmarkResult(tuple(bench.figures), tuple(bench.comparisons), parameters=parameters),
    )
    print("\nok" if all(results) else "\nBROKEN: a bound above is not met")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
