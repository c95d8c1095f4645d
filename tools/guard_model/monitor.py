"""Fit the monitor of a served model: collect states, fit both probes, set thresholds, measure.

    python -m tools.guard_model.monitor DATA_DIR --model small --work runs/monitor
    python -m tools.guard_model.monitor DATA_DIR --model small --work runs/monitor --ship

States are those of the model with its shipped adapter, after prompts as an agent writes them: with and without
instructions and tools. They are kept in `--work`, so that a second run fits at once. Requests are the rows of
`tools.guard_model.rows`; replies are those of the red-teaming set, and ordinary ones from public texts.

Letters: N rows, T tokens, L layers, D width of the model, C = L * D.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from agentkit.models.local.profiles import PROFILES
from agentkit.models.local.shipped import ADAPTER_FILE, shipped_folder
from evals.cli import print_tables
from evals.harness.suite import Table
from evals.statistics import area_under_roc, wilson
from modelstack.align.guard_training.measured import threshold_at
from modelstack.align.guard_training.rows import read_rows
from modelstack.align.monitor.probe import REPLY, REQUEST, Direction, Probe
from modelstack.align.monitor.shipped import MONITOR_FILES
from modelstack.align.monitor.watch import MIN_TOKENS
from modelstack.align.monitor_training.fit import fit_replies, fit_requests, smoothed
from modelstack.align.monitor_training.states import layer_states
from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.posttrain.base import load_base
from modelstack.posttrain.lora.adapters import merge_lora
from modelstack.posttrain.lora.files import put_adapter
from modelstack.posttrain.lora.gguf import read_gguf_adapter
from modelstack.posttrain.weights_by_name import weights_path
from modelstack.terminal.progress_bars import Tell, progress_bars
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.prompt import tools_prompt
from modelstack.train.process import set_up_process
from tools.classifiers.data_files import read_source
from tools.classifiers.request_rows import passages
from tools.guard_model.evaluate import measured_sets, ordinary_texts
from tools.guard_model.rows import reply_rows

ODDS_FILE = "request_log_odds.json"
"""File of the log-odds of all measured requests by text."""
POINTS = {"fpr_0.1": 0.001, "fpr_0.5": 0.005, "fpr_1": 0.01, "fpr_5": 0.05}
WINDOW = 16
FIRST_JUDGED = MIN_TOKENS - 1
"""Place of the first token that may stop a reply."""
N_REQUESTS, N_REPLIES, N_ORDINARY_REPLIES, MAX_REPLY_TOKENS = 8000, 1500, 900, 96
HELD_BACK, HELD_BACK_ORDINARY = 6, 2
"""Every so many replies are measured and not trained on. Half of the ordinary ones: thresholds are set on them."""
_SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
_TOOLS = (
    ToolSpec("search", "Search the web.", _SCHEMA),
    ToolSpec(
        "read_file",
        "Read a file of the workspace.",
        {"type": "object", "properties": {"path": {"type": "string"}}},
    ),
    ToolSpec("send_mail", "Send a mail.", {"type": "object", "properties": {"to": {"type": "string"}}}),
)
CONTEXTS = (
    "",
    "You are a helpful assistant.",
    "Answer briefly.",
    "You work for a shop. Be friendly, and answer in the customer's language.",
    tools_prompt(_TOOLS),
    "You are an assistant with access to a computer.\\n\\n" + tools_prompt(_TOOLS[:2]),
)
"""System texts; each row has one of them, by the hash of its text."""


@dataclass(frozen=True, slots=True)
class Said:
    """A request, and a reply to it if replies are collected."""

    request: str
    reply: str | None
    unsafe: bool


class Collector:
    """Collects states of the served model, and keeps them in files."""

    def __init__(
        self,
        model: CausalLM,
        encoder: ChatEncoder,
        fingerprint: str,
        layers: Sequence[int],
        work: Path,
        tell: Tell,
    ) -> None:
        """Prepare; `work` keeps the states."""
        self._model, self._encoder, self._layers, self._work, self._tell = model, encoder, layers, work, tell
        self._fingerprint = fingerprint
        self._prefixes = [self._prefix(context) for context in CONTEXTS]

    def requests(self, name: str, texts: Sequence[str]) -> NDArray[np.float16]:
        """Return the states [N, L, D] at the ends of prompts with some requests."""
        return self._kept(name, texts, lambda: self._ends(name, texts))

    def replies(self, name: str, said: Sequence[Said]) -> list[NDArray[np.float16]]:
        """Return the states [T, L, D] of the tokens of replies."""
        lengths_file = self._work / f"{name}-lengths.npy"
        flat = self._kept(
            name, [f"{each.request}\\n{each.reply}" for each in said], lambda: self._flat(name, said)
        )
        return np.split(flat, np.load(lengths_file).cumsum()[:-1])

    def _kept(
        self, name: str, texts: Sequence[str], make: Callable[[], NDArray[np.float16]]
    ) -> NDArray[np.float16]:
        file, key_file = self._work / f"{name}.npy", self._work / f"{name}.key"
        key = hashlib.sha256(json.dumps([*texts, self._layers, self._fingerprint]).encode()).hexdigest()
        if not (key_file.exists() and key_file.read_text() == key):
            np.save(file, make())
            key_file.write_text(key)
        return np.load(file, mmap_mode="r")

    def _ends(self, name: str, texts: Sequence[str]) -> NDArray[np.float16]:
        found = np.empty((len(texts), len(self._layers), self._model.config.hidden_size), np.float16)
        for number, states in self._all(name, [self._asked(text) for text in texts], texts):
            found[number] = states[-1]
        return found

    def _flat(self, name: str, said: Sequence[Said]) -> NDArray[np.float16]:
        rows = [[*self._asked(each.request), *self._answered(each)] for each in said]
        found: list[NDArray[np.float16]] = [np.empty(0, np.float16)] * len(rows)
        for number, states in self._all(name, rows, [each.request for each in said]):
            found[number] = states[len(rows[number]) - len(self._answered(said[number])) :].copy()
        np.save(self._work / f"{name}-lengths.npy", [len(each) for each in found])
        return np.concatenate(found)

    def _all(
        self, name: str, rows: Sequence[list[int]], texts: Sequence[str]
    ) -> Iterator[tuple[int, NDArray[np.float16]]]:
        n_done = 0
        for context, prefix in enumerate(self._prefixes):
            numbers = [n for n, text in enumerate(texts) if _context_of(text) == context]
            for place, states in layer_states(self._model, prefix, [rows[n] for n in numbers], self._layers):
                yield numbers[place], states
                n_done += 1
                self._tell(name, n_done, len(rows))

    def _prefix(self, context: str) -> list[int]:
        """Return the tokens before the request's turn; at least one, so that it can be shared."""
        if context:
            return self._encoder.encode_turn("system", context, previous=None).ids
        return self._encoder.opening_ids("user")[:1]

    def _asked(self, text: str) -> list[int]:
        context = CONTEXTS[_context_of(text)]
        turn = self._encoder.encode_turn("user", text, previous="system" if context else None).ids
        return [*(turn if context else turn[1:]), *self._encoder.generation_ids("user")]

    def _answered(self, each: Said) -> list[int]:
        assert each.reply is not None
        return self._encoder.content_ids(each.reply)[:MAX_REPLY_TOKENS]


def _context_of(text: str) -> int:
    return hashlib.sha256(f"context {text}".encode()).digest()[0] % len(CONTEXTS)


def served(name: str, stage: Path | None) -> tuple[CausalLM, ChatEncoder, str]:
    """Return a profile's model with an adapter merged, its encoder, and the engine's fingerprint.

    Args:
        name: A profile, or an id of the catalog.
        stage: Stage with the adapter; None: the shipped one, if there is one.

    Raises:
        UserError: The model is missing.
    """
    model_id = PROFILES.get(name, name)
    path, folder = weights_path(model_id), stage or shipped_folder(model_id)
    lora = None if folder is None else folder / ADAPTER_FILE
    base = load_base(path, dtype=torch.bfloat16)
    model = base.model
    if lora is not None:
        put_adapter(model, read_gguf_adapter(lora, base.config))
        model = merge_lora(model, torch.bfloat16)
    model.requires_grad_(False)
    with LlamaCppEngine(path, lora_path=lora, context_window=64, n_threads=1, n_threads_prefill=1) as engine:
        return model.eval(), base.encoder, engine.fingerprint


def ordinary_replies(data_dir: Path, seed: int) -> list[Said]:
    """Return ordinary texts as replies: passages of textbooks and documentation, and turns of dialogues."""
    draw = random.Random(seed)
    texts = [text for name in ("textbooks", "codedocs") for text in passages(data_dir, name, 300, draw, (80, 500))]
    for record in islice(read_source(data_dir, "dialogues"), 300):
        turns = str(record["text"]).split("\\n")
        texts.append(draw.choice(turns).partition(": ")[2] or turns[0])
    asks = ("Tell me about this.", "What does it say?", "Go on, please.", "And then?", "Explain.")
    return [
        Said(f"{draw.choice(asks)} ({n})", text, False)
        for n, text in enumerate(texts[:N_ORDINARY_REPLIES])
        if text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, fit, measure and print; with --ship write the probe into the package; return 0, or 2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\\n")[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--model", default="small", help="profile or catalog id")
    parser.add_argument("--stage", type=Path, help="stage with another adapter than the shipped one")
    parser.add_argument("--layers", type=int, nargs="+", default=[9, 12, 15, 18])
    parser.add_argument("--use", type=int, nargs="+", help="layers of the probe among those collected; all")
    parser.add_argument("--penalty", type=float, default=0.01)
    parser.add_argument("--rows", type=Path, default=Path("guard-rows"))
    parser.add_argument("--held-out", type=Path, action="append", default=[])
    parser.add_argument("--work", type=Path, default=Path("runs/monitor"))
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    set_up_process(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        with progress_bars(Console(stderr=True)) as tell:
            probe, tables = fitted(options, tell)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for table in tables:
        print_tables(table)
    file = MONITOR_FILES / f"{options.model}.safetensors" if options.ship else options.work / "monitor.safetensors"
    probe.save(file)
    print(file)
    return 0


def fitted(options: argparse.Namespace, tell: Tell) -> tuple[Probe, list[Table]]:
    """Return the fitted monitor and its tables."""
    model, encoder, fingerprint = served(options.model, options.stage)
    collector = Collector(model, encoder, fingerprint, options.layers, options.work, tell)
    used = options.use or options.layers
    places = [options.layers.index(layer) for layer in used]

    def channels(states: NDArray[np.float16]) -> NDArray[np.float16]:
        return np.ascontiguousarray(states[:, places]).reshape(len(states), -1)

    rows = [row for row in read_rows(options.rows / "training.jsonl") if row.judged == "user"]
    training = random.Random(options.seed).sample(rows, min(N_REQUESTS, len(rows)))
    texts = [row.turns[-1].content for row in training]
    unsafe = np.array([row.unsafe for row in training])
    request = fit_requests(channels(collector.requests("training", texts)), unsafe, penalty=options.penalty)
    trained = frozenset(row.turns[-1].content for row in rows)
    ordinary = ordinary_texts(options.data_dir, trained, options.seed)
    request_odds = {"ordinary": _odds(channels(collector.requests("ordinary", ordinary)), request)}
    sets = measured_sets(options.data_dir, options.held_out, options.rows / "validation.jsonl", options.seed)
    for each in sets:
        name = each.name.replace(" ", "-").replace(",", "")
        request_odds[each.name] = _odds(channels(collector.requests(name, each.texts)), request)

    by_text = dict(zip(ordinary, request_odds["ordinary"].tolist(), strict=True))
    for each in sets:
        by_text |= zip(each.texts, request_odds[each.name].tolist(), strict=True)
    (options.work / ODDS_FILE).write_text(json.dumps(by_text, ensure_ascii=False), "utf-8")

    said = [
        Said(row.turns[0].content, row.turns[1].content, row.unsafe)
        for row in reply_rows(options.data_dir, random.Random(options.seed), N_REPLIES)
    ]
    benign = ordinary_replies(options.data_dir, options.seed)
    states = [
        channels(each) for each in (*collector.replies("replies", said), *collector.replies("benign", benign))
    ]
    labels = np.array([each.unsafe for each in (*said, *benign)])
    is_held = np.array([*(n % HELD_BACK == 0 for n in range(len(said))),
                        *(n % HELD_BACK_ORDINARY == 0 for n in range(len(benign)))])  # fmt: skip
    reply = fit_replies(
        [each for each, held in zip(states, is_held, strict=True) if not held and len(each)],
        labels[[n for n, each in enumerate(states) if not is_held[n] and len(each)]],
        window=WINDOW,
        penalty=options.penalty,
    )
    means = [smoothed(_odds(each, reply), WINDOW)[FIRST_JUDGED:] if len(each) else np.empty(0) for each in states]
    largest = np.array([each.max(initial=-50.0) for each in means])
    kinds = np.array([True] * len(said) + [False] * len(benign))
    reply_odds = {
        "harmful replies": largest[is_held & labels],
        "other replies of red-teaming": largest[is_held & ~labels & kinds],
        "ordinary replies": largest[is_held & ~kinds],
    }
    thresholds = {
        REQUEST: {name: threshold_at(request_odds["ordinary"], share) for name, share in POINTS.items()},
        REPLY: {name: threshold_at(reply_odds["ordinary replies"], share) for name, share in POINTS.items()},
    }
    shape = (len(used), model.config.hidden_size)
    probe = Probe(
        tuple(used),
        Direction(request[0].reshape(shape), request[1]),
        Direction(reply[0].reshape(shape), reply[1]),
        WINDOW,
        thresholds,
        (fingerprint,),
        {"n_requests": len(texts), "n_replies": len(said) + len(benign), "penalty": options.penalty,
         "seed": options.seed, "model": options.model},
    )  # fmt: skip
    wanted = {each.name: each.want for each in sets} | {"ordinary": "pass"}
    tables = [
        _flag_table("Requests flagged by the monitor", request_odds, thresholds[REQUEST], wanted),
        _flag_table("Replies stopped by the monitor", reply_odds, thresholds[REPLY], {"harmful replies": "flag"}),
    ]
    harmful = [each for each, is_harmful in zip(means, is_held & labels, strict=True) if is_harmful]
    tables.append(_onset_table(harmful, thresholds[REPLY]))
    for table in tables:
        (options.work / f"{table.title}.json").write_text(json.dumps(asdict(table), indent=1), "utf-8")
    return probe, tables


def _onset_table(means: Sequence[NDArray[np.float64]], thresholds: Mapping[str, float]) -> Table:
    """Return after how many tokens harmful replies, which comply from their first token, are stopped."""
    rows: list[tuple[str, ...]] = []
    for point in POINTS:
        over = [each >= thresholds[point] for each in means]
        tokens = [int(each.argmax()) + FIRST_JUDGED + 1 if each.any() else MAX_REPLY_TOKENS + 1 for each in over]
        soon = sum(n <= WINDOW for n in tokens)
        median = int(np.median(tokens))
        shown = str(median) if median <= MAX_REPLY_TOKENS else f"over {MAX_REPLY_TOKENS}"
        rows.append((point, str(len(tokens)), shown, str(wilson(soon, len(tokens)))))
    return Table("Tokens until a harmful reply stops", ("point", "n", "median", f"within {WINDOW}"), tuple(rows))


def _odds(states_NC: NDArray[np.float16], direction: tuple[NDArray[np.float32], float]) -> NDArray[np.float64]:
    return (states_NC.astype(np.float32) @ direction[0] + direction[1]).astype(np.float64)


def _flag_table(
    title: str, odds: Mapping[str, NDArray[np.float64]], thresholds: Mapping[str, float], wanted: Mapping[str, str]
) -> Table:
    rows: list[tuple[str, ...]] = []
    harmful = [odds[name] for name in odds if wanted.get(name) == "flag"]
    for name, found in odds.items():
        shares = [str(wilson(int((found >= thresholds[point]).sum()), len(found))) for point in POINTS]
        pooled = np.concatenate(harmful)
        area = "" if wanted.get(name) == "flag" else f"{area_under_roc(pooled.tolist(), found.tolist()):.3f}"
        rows.append((name, wanted.get(name, "pass"), str(len(found)), *shares, area))
    return Table(title, ("set", "want", "n", *POINTS, "AUC to all harmful"), tuple(rows))


if __name__ == "__main__":
    raise SystemExit(main())
