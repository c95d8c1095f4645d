"""A toy llama that chats, and tools that it may call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.data.examples import Message, Tool
from modelstack.inference.grammar import Grammar
from modelstack.reasoning.episodes.episode import Conversation, EpisodePlan
from modelstack.reasoning.sampling.sampled import Sampled
from modelstack.reasoning.sampling.turn_writer import Draws
from modelstack.reasoning.tasks.golds import response_format
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.deeds import EpisodeTools
from modelstack.reasoning.verifiers.effects import EffectGold
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.chat_template import chat_encoder
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.grammar.compiler import GrammarCompiler
from tests.modelstack.architecture.gguf_models import toy_chat_tokenizer, toy_config, toy_model

TOOLS = (
    ToolSpec(
        "lamp",
        "Switch a lamp.",
        {
            "type": "object",
            "properties": {"room": {"enum": ["hall", "attic"]}, "on": {"type": "boolean"}},
            "required": ["room", "on"],
        },
    ),
    ToolSpec("look", "See which lamps are on.", {"type": "object", "properties": {}}),
)
CONTEXT = 1024
PLAN = EpisodePlan(max_turns=4, turn_tokens=200, result_tokens=200, max_tokens=1500)


def toy_policy(seed: int = 0) -> CausalLM:
    """Return a model whose next tokens are neither certain nor all alike."""
    model = toy_model(toy_config("llama", max_position_embeddings=CONTEXT), seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    return model


@cache
def toy_encoder() -> ChatEncoder:
    """Return what writes and reads its conversations: ChatML, with a second token that ends a reply."""
    return chat_encoder(toy_chat_tokenizer())


class House:
    """Two lamps."""

    def __init__(self) -> None:
        self.lamps = {"hall": False, "attic": False}

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == "look":
            return self.lamps
        if arguments["room"] not in self.lamps:
            raise KeyError(arguments["room"])
        self.lamps[arguments["room"]] = arguments["on"]
        return "done"

    def state(self) -> Any:
        return self.lamps


def house_task(*calls: tuple[str, dict[str, Any]], number: int = 0) -> PolicyTask:
    """Return a task whose gold calls these are."""
    shown = tuple(Tool(name=t.name, description=t.description, parameters={**t.parameters}) for t in TOOLS)
    item = Item(f"house-{number}", EffectGold(House, response_format(TOOLS), calls))
    return PolicyTask(item, (Message(role="user", content=f"light {number}"),), tools=shown)


def inclined(model: CausalLM, prompt_ids: Sequence[int], more: Mapping[int, float]) -> CausalLM:
    """Raise the logits of some tokens by what is given, behind a prompt and by about as much elsewhere."""
    with torch.no_grad():
        hidden_D = model(torch.tensor([list(prompt_ids)])).hidden_BTD[0, -1]
        for token, by in more.items():
            model.lm_head.weight[token] += by * hidden_D / hidden_D.dot(hidden_D)
    return model


def played(
    tools: EpisodeTools,
    turns: Sequence[str],
    *,
    specs: Sequence[ToolSpec] = TOOLS,
    with_grammar: bool = True,
    plan: EpisodePlan = PLAN,
) -> Sampled:
    """Return the episode of a policy that is sure to write these turns."""

    reply_format = response_format(specs)
    compiler = GrammarCompiler(toy_encoder().vocabulary, unsupported="check")

    def grammar() -> Grammar | None:
        return compiler.compile(reply_format).start() if with_grammar else None

    encoder = toy_encoder()
    draws = Draws(encoder.vocabulary, encoder.end_ids, 0.0, seed=0)
    conversation = Conversation(encoder, draws, tools, reply_format, grammar, plan)
    while conversation.next_ids(wish(conversation, turns)):
        pass
    return conversation.sampled()


def wish(conversation: Conversation, turns: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return logits that are sure of the token that goes on with the script."""
    vocabulary = toy_encoder().vocabulary
    written = vocabulary.decode(conversation.turn.content_ids)
    wanted = turns[conversation.n_turns - 1]
    assert wanted.startswith(written), (wanted, written)
    rest = vocabulary.encode(wanted[len(written) :])
    logits_V = np.zeros(len(vocabulary), dtype=np.float32)
    logits_V[rest[0] if rest else toy_encoder().assistant_suffix_ids[0]] = 50
    return logits_V
