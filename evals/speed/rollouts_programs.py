"""Replies to the prompts of one optimizer step, as each program samples them for reinforcement learning.

The same Q4_1 model, dequantised for torch, with the same LoRA adapter (rank 16, all linear layers of the blocks),
and 8 replies per prompt, all of the same length: no token ends a reply. Tokens are sampled at temperature 1 from
the whole distribution. Before each step the adapter changes, as after an optimizer step. For llama.cpp this means
writing and loading a file and re-evaluating the shared prompt; this time is included.

TRL uses its trainer's own sampling method, `GRPOTrainer._generate_single_turn`: a prompt is repeated for each
reply, all prompts are padded to one length, and transformers' `generate` writes all replies of the step together.
The base is bf16, the default of LoRA training here; TRL's default, fp32, is a separate row.

Letters: G replies of a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch

RANK, ALPHA = 16, 32
B_SIZE = 0.01
"""Standard deviation of B, as in an adapter that has been trained."""
MOVE = 1e-5

PROMPTS, GROUP, TOKENS = 2, 8, 64
Setting = Literal["tools", "short"]
Step = Callable[[int], int]
"""Samples replies for the n-th optimizer step; returns the number of their tokens."""

QUESTIONS = (
    "What is the weather in Lisbon tomorrow?",
    "Remind me to call Anna at five.",
    "How many lines does notes/todo.md have?",
    "Translate 'good morning' into French and Welsh.",
    "Turn the lights in the kitchen off.",
    "Which of my meetings is the longest?",
    "Write a haiku about the sea.",
    "What is 17 times 23?",
)
TOOLS = ("weather", "reminder", "read_file", "translate", "lamp", "calendar")


@dataclass(frozen=True, slots=True)
class Task:
    """A program's task in the benchmark."""

    program: str
    setting: Setting
    gguf: Path
    prompts: int = PROMPTS
    """Number of prompts per step."""
    group: int = GROUP
    """Number of replies per prompt (G)."""
    tokens: int = TOKENS
    """Number of tokens per reply."""

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens sampled in a step."""
        return self.prompts * self.group * self.tokens


def system_prompt() -> str:
    """Return a system prompt with the descriptions of several tools, as an agent sends it."""
    tools = [
        {
            "name": name,
            "description": f"Use the {name} of the user's home. Call it once for each thing that is asked.",
            "parameters": {
                "type": "object",
                "properties": {"target": {"type": "string"}, "value": {"type": "integer"}},
                "required": ["target"],
            },
        }
        for name in TOOLS
    ]
    return "You may call one of these tools:\n" + "\n".join(json.dumps(tool) for tool in tools)


def prompts_of(task: Task, tokenizer: Any, number: int) -> list[tuple[int, ...]]:
    """Return the prompts of an optimizer step as token ids."""
    before = system_prompt() + "\n\n" if task.setting == "tools" else ""
    asked = [QUESTIONS[(number * task.prompts + n) % len(QUESTIONS)] for n in range(task.prompts)]
    return [tuple(tokenizer.encode(f"{before}User: {question}\nAssistant:")) for question in asked]


def ready(task: Task) -> tuple[int, Callable[[], float]]:
    """Return a program's number of trained parameters, and a function that runs a step and returns its tokens."""
    torch.manual_seed(0)
    n_parameters, step = PROGRAMS[task.program](task)
    numbers = count()
    return n_parameters, lambda: float(step(next(numbers)))


def llama_cpp(task: Task) -> tuple[int, Step]:
    """Return modelstack's sampler on llama.cpp: the quantised base with the current adapter."""
    from modelstack.reasoning.sampling.group_sampler import GroupSampler
    from modelstack.reasoning.sampling.llama.policy import LlamaPolicy, shared_prefix

    base = _base(task)
    all_prompts = [ids for n in range(len(QUESTIONS)) for ids in prompts_of(task, base.tokenizer, n)]
    prefix = shared_prefix(all_prompts)
    sampler = GroupSampler(LlamaPolicy(base, prefix=prefix), frozenset(), task.tokens)
    return _n_trained(base.model), _ours(task, base, sampler)


def modelstack(task: Task) -> tuple[int, Step]:
    """Return modelstack's sampler in torch."""
    from modelstack.reasoning.sampling.continuing import TorchPolicy
    from modelstack.reasoning.sampling.group_sampler import GroupSampler

    base = _base(task)
    # As `modelstack reinforce` samples.
    sampler = GroupSampler(TorchPolicy(base.model), frozenset(), task.tokens, one_by_one=True)
    return _n_trained(base.model), _ours(task, base, sampler)


def _ours(task: Task, base: Any, sampler: Any) -> Step:
    from modelstack.reasoning.sampling.sampled import Asked
    from modelstack.reasoning.tasks.task import PolicyTask
    from modelstack.reasoning.verifiers.rewards import Item

    moved = [p for name, p in base.model.named_parameters() if name.endswith("lora_B")]
    no_task = PolicyTask(Item("rollouts", "", prompt=""), ())

    def step(number: int) -> int:
        with torch.no_grad():
            for parameter in moved:
                parameter.add_(MOVE)
        prompts = prompts_of(task, base.tokenizer, number)
        asked = [Asked(no_task, ids, number * task.prompts + n) for n, ids in enumerate(prompts)]
        return sum(len(reply.ids) for group in sampler.sample(asked, task.group) for reply in group)

    return step


def _base(task: Task) -> Any:
    from modelstack.posttrain.base import load_base
    from modelstack.posttrain.lora.adapters import add_lora
    from modelstack.posttrain.lora.config import LoraConfig

    base = load_base(task.gguf, dtype=torch.bfloat16)
    add_lora(base.model, LoraConfig(rank=RANK, alpha=ALPHA))
    _give_size(p for name, p in base.model.named_parameters() if name.endswith("lora_B"))
    return base


def trl(task: Task) -> tuple[int, Step]:
    """Return TRL's sampling on a bf16 base."""
    return _trl(task, torch.bfloat16)


def trl_fp32(task: Task) -> tuple[int, Step]:
    """Return TRL's sampling on its default, an fp32 base."""
    return _trl(task, torch.float32)


def _trl(task: Task, dtype: torch.dtype) -> tuple[int, Step]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from modelstack.architecture.gguf.load import load_gguf
    from modelstack.architecture.presets.registry import to_hf
    from modelstack.posttrain.base import load_base

    loaded = load_gguf(task.gguf)
    model = LlamaForCausalLM(LlamaConfig(**to_hf(loaded.config)))
    model.load_state_dict(loaded.state_dict)
    model.tie_weights()
    n_rows = task.prompts * task.group
    trainer = GRPOTrainer(
        model.to(dtype),  # pyright: ignore
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir="trl",
            use_cpu=True,
            bf16=dtype == torch.bfloat16,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            per_device_train_batch_size=n_rows,
            num_generations=task.group,
            max_completion_length=task.tokens,
            disable_tqdm=True,
            beta=0.0,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * n_rows),
        processing_class=_some_tokenizer(),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.generation_config.eos_token_id = None  # no token ends a reply
    trainer.eos_token_ids = [-1]
    _give_size(p for name, p in trainer.model.named_parameters() if "lora_B" in name)  # pyright: ignore
    tokenizer = load_base(task.gguf).tokenizer

    def step(number: int) -> int:
        rows = [list(ids) for ids in prompts_of(task, tokenizer, number) for _ in range(task.group)]
        completions, _ = trainer._generate_single_turn(rows, None, {}, task.group)
        return sum(map(len, completions))

    trained = trainer.model.parameters()  # pyright: ignore
    return sum(p.numel() for p in trained if p.requires_grad), step


def _some_tokenizer() -> Any:
    """Return a minimal tokenizer that the trainer accepts; prompts are given as ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<pad>": 1, "<eos>": 2, "<unk>": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", bos_token="<eos>"
    )


@torch.no_grad()
def _give_size(parameters: Any) -> None:
    for n, parameter in enumerate(parameters):
        parameter.normal_(std=B_SIZE, generator=torch.Generator().manual_seed(n))


def _n_trained(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def write_tiny(path: Path) -> Path:
    """Write a tiny Q4_1 model that only tests that everything works; return its path."""
    from evals.post_training.sampler_gap.start import byte_tokenizer
    from modelstack.architecture.decoder import CausalLM
    from modelstack.architecture.gguf.export import export_gguf
    from modelstack.architecture.initialise import initialise
    from modelstack.architecture.presets.registry import published

    sizes = {"vocab_size": 288, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = published("smollm2-135m", **sizes, **heads)
    state = initialise(CausalLM(config)).state_dict()
    return export_gguf(config, state, byte_tokenizer(), path, type_name="q4_1").path


OURS, TORCH, PEER, PEER_FP32 = "modelstack, llama.cpp", "modelstack, torch", "TRL", "TRL, fp32"
PROGRAMS: dict[str, Callable[[Task], tuple[int, Step]]] = {
    OURS: llama_cpp,
    TORCH: modelstack,
    PEER: trl,
    PEER_FP32: trl_fp32,
}
