"""Registry of all benchmarks in this folder.

A new benchmark is a module with `--result` (`evals.speed.results`) and an entry here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark and its command line."""

    module: str
    question: str
    """The measured quantity, in one line."""
    quick: tuple[str, ...] = ()
    """Arguments of a short run that only tests that the benchmark works; its figures are not meaningful."""
    takes_bfcl: bool = False
    """Whether it accepts `--bfcl FOLDER`."""
    takes_model: bool = False
    """Whether it accepts `--model ID`."""


BENCHMARKS: dict[str, Benchmark] = {
    "agent_loop": Benchmark(
        "evals.speed.agent_loop",
        "CPU time of one step of the agent loop, compared with other SDKs",
        quick=("--only", "agentkit", "--repeats", "1"),
    ),
    "journal": Benchmark(
        "evals.speed.journal",
        "time and bytes that the journal adds to a step, compared with LangGraph's SQLite saver",
        quick=("--only", "agentkit", "--repeats", "1", "--sizes", "5", "10", "20"),
    ),
    "memory": Benchmark(
        "evals.speed.memory",
        "CPU time to search, recall, write and forget memories, and whether the nearest ones are all found",
        quick=("--sizes", "200", "--queries", "5"),
    ),
    "sandbox": Benchmark(
        "evals.speed.sandbox",
        "time that isolation adds to the start of a command, compared with a plain one, unshare and bubblewrap",
        quick=("--repeats", "2"),
    ),
    "retrieval": Benchmark(
        "evals.speed.retrieval",
        "search among 100,000 passages by words and by meaning, compared with sqlite-vec; what a kill loses",
        quick=("--passages", "2000", "--queries", "20", "--no-peer"),
    ),
    "embedding": Benchmark(
        "evals.speed.embedding",
        "sentences embedded in a second of CPU time, compared with llama.cpp and transformers",
        quick=("--sentences", "30", "--only", "numpy"),
    ),
    "mcp_servers": Benchmark(
        "evals.speed.mcp_servers",
        "calls and connections to this project's MCP servers, compared with the reference servers",
        quick=("--only", "agentkit", "--calls", "3", "--connects", "1"),
    ),
    "constrained_decoding": Benchmark(
        "evals.speed.constrained_decoding",
        "cost and savings of constrained decoding",
        quick=("--timed", "3", "--free", "2", "--masked", "3"),
        takes_bfcl=True,
        takes_model=True,
    ),
    "data_pipeline": Benchmark(
        "evals.speed.data_pipeline",
        "FineWeb's recipe from text to signature, compared with datatrove",
        quick=("--only", "modelstack", "--repeats", "1", "--texts", "20"),
    ),
    "minhash": Benchmark(
        "evals.speed.minhash",
        "MinHash signatures compared with rensa, datasketch and datatrove; memory with ten times the documents",
        quick=("--only", "modelstack", "--repeats", "1", "--texts", "8", "--documents", "500"),
    ),
    "prefix_reuse": Benchmark(
        "evals.speed.prefix_reuse",
        "time to first token over a conversation and of a new process, with and without the caches",
        quick=("--turns", "3"),
        takes_model=True,
    ),
    "warm_start": Benchmark(
        "evals.speed.warm_start",
        "time to first token of a new process whose prompt's fixed part is on disk",
    ),
    "first_token": Benchmark(
        "evals.speed.first_token",
        "time to first token of interleaved conversations, also after a restart, compared with llama.cpp's server",
        quick=("--conversations", "2", "--shared", "128", "--turns", "2"),
        takes_model=True,
    ),
    "served_steps": Benchmark(
        "evals.speed.served_steps",
        "CPU time of a step of a served agent, compared with the loop and its journal alone",
        quick=("--sessions", "5", "--repeats", "1"),
    ),
    "studio_page": Benchmark(
        "evals.speed.studio_page",
        "bytes of the studio's page, and time to its first paint in a browser",
        quick=("--loads", "1"),
    ),
    "monitor": Benchmark(
        "evals.speed.monitor",
        "cost of a monitor on hidden states, for a token and for a request",
        quick=("--model", "smollm2-135m", "--layers", "12", "--tokens", "4", "--repeats", "2", "--loads", "2"),
    ),
    "red_team": Benchmark(
        "evals.speed.red_team",
        "cost of an attempt of our red team, compared with garak's on the same server",
        quick=("--only", "modelstack", "--n", "1"),
    ),
    "sae": Benchmark(
        "evals.speed.sae",
        "quality and speed of training sparse autoencoders compared with SAELens, on real and on known states",
        quick=("--only", "modelstack", "--part", "known", "--known-tokens", "8192", "--seeds", "2"),
    ),
    "model_memory": Benchmark(
        "evals.speed.model_memory",
        "memory of a process that has loaded a model of the catalog and answered",
        quick=("--model", "smollm2-135m"),
    ),
    "eval_harness": Benchmark(
        "evals.speed.eval_harness",
        "CPU time that the evaluation harness adds to a case",
        quick=("--repeats", "1", "--sizes", "5", "10"),
    ),
    "model_forward": Benchmark(
        "evals.speed.model_forward",
        "forward, training and decoding speed of modelstack's torch models, compared with transformers",
        quick=("--preset", "llama", "--repeats", "2", "--forward", "32", "--training", "16", "--decoded", "2"),
    ),
    "serving": Benchmark(
        "evals.speed.serving",
        "tokens per CPU second of our engines: a batch, one request, a prompt; compared with servers of others",
        quick=("--tiny", "--dtype", "bf16", "--repeats", "1"),
        takes_model=True,
    ),
    "speculation": Benchmark(
        "evals.speed.speculation",
        "speed of replies with draft tokens on an agent's work and on free text, beside the same engine without",
        quick=("--engine", "llama.cpp", "--requests", "1", "--repeats", "1"),
        takes_model=True,
    ),
    "mtp_drafts": Benchmark(
        "evals.speed.mtp_drafts",
        "drafts by a module for multi-token prediction, beside llama.cpp's on the same file",
        quick=("--steps", "4", "--prompts", "2", "--tokens", "8"),
    ),
    "agent_serving": Benchmark(
        "evals.speed.agent_serving",
        "what each technique of inference adds on eight conversations of an agent, from none to all",
        quick=("--turns", "1", "--row", "+ int8", "--no-transformers"),
        takes_model=True,
    ),
    "serving_agents": Benchmark(
        "evals.speed.serving_agents",
        "requests a CPU second of a served agent, durable and in memory, compared with pydantic-ai and Google ADK",
        quick=("--program", "agentkit-memory", "--repeats", "1", "--requests", "20", "--clients", "4"),
    ),
    "prompt_arrival": Benchmark(
        "evals.speed.prompt_arrival",
        "time between the tokens of running replies while a long prompt arrives, with one process and with two",
        quick=("--rounds", "1", "--tokens", "256", "--kind", "one process, pieces of 64"),
        takes_model=True,
    ),
    "train_to_loss": Benchmark(
        "evals.speed.train_to_loss",
        "tokens and time to reach the final loss of nanoGPT's recipe (NANOGPT names its checkout)",
        quick=("--quick", "--seeds", "2"),
    ),
    "routing_spike": Benchmark(
        "evals.speed.routing_spike",
        "whether anticipatory routing survives an injected routing spike that stops roll-backs, and its cost",
        quick=("--seeds", "1", "--repeats", "3"),
    ),
    "spike_recovery": Benchmark(
        "evals.speed.spike_recovery",
        "cost of NaNs, spikes and bad data under OLMo-core's, PaLM's, no, and modelstack's rule; false alarms",
        quick=("--quick",),
    ),
    "goodput": Benchmark(
        "evals.speed.goodput",
        "share of time in which a run advances despite killed ranks, damaged checkpoints and a full disk",
        quick=("--quick",),
    ),
    "train_throughput": Benchmark(
        "evals.speed.train_throughput",
        "training tokens per second compared with transformers, litgpt and nanoGPT (NANOGPT: its checkout)",
        quick=("--tiny", "--mode", "eager", "--warm", "31", "--turns", "2", "--steps", "2"),
    ),
    "lora_throughput": Benchmark(
        "evals.speed.lora_throughput",
        "tokens per second of training a LoRA adapter compared with transformers and peft, on SmolLM2-135M",
        quick=("--tiny", "--warm", "30", "--turns", "2", "--steps", "2"),
    ),
    "rollouts": Benchmark(
        "evals.speed.rollouts",
        "tokens per second of sampling replies for RL on llama.cpp and torch, compared with TRL",
        quick=("--tiny", "--program", "modelstack, torch", "--group", "2", "--tokens", "4", "--turns", "2"),
    ),
}
"""Benchmarks by name, in the order of execution."""
