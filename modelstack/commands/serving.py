"""Step 10: a model behind HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from mcp_servers.uvicorn_settings import uvicorn_settings
from modelstack.commands.help import explained
from modelstack.commands.torch_engines import (
    DRAFTER_HELP,
    Drafter,
    Numbers,
    load_torch_base,
    prefill_process,
    torch_engine,
)
from modelstack.commands.vllm_engine import VllmServer
from modelstack.errors import UserError

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from modelstack.inference.engine import Engine
    from modelstack.inference.server.replying import Limits

KEY_VARIABLE = "MODELSTACK_API_KEY"
DEFAULT_PORT = 8000
FOR_VLLM = frozenset({"source", "name", "engine", "host", "port", "adapter", "window", "running", "no_key", "out"})
"""Parameters of `serve` that its start of vLLM has."""
_OPTION_NAMES = {"window": "context", "prefill": "prefill-process"}
"""Options whose parameters have other names."""
CACHED_WINDOWS = 2
"""Context windows that the cache of llama.cpp holds, for all conversations together."""
GRACE_S = 30
"""Seconds that running replies have after a signal to stop."""


class EngineName(StrEnum):
    """Engine that runs the model."""

    auto = "auto"
    llama = "llama.cpp"
    torch = "torch"
    vllm = "vllm"


@explained(
    reads="a GGUF file, a checkpoint, a stage or a model by name; adapters",
    writes="replies to OpenAI's and Anthropic's clients, until it is stopped",
    example="modelstack serve qwen2.5-coder-0.5b",
    then="curl http://127.0.0.1:8000/v1/models",
)
def serve(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="GGUF file, checkpoint folder, stage, or a model's name.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name for clients; else that of the file.")] = None,
    engine: Annotated[
        EngineName,
        typer.Option("--engine", help="auto: llama.cpp for GGUF files, else torch; vllm is started as it is."),
    ] = EngineName.auto,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = DEFAULT_PORT,
    lora: Annotated[
        Path | None,
        typer.Option("--lora", help="GGUF adapter of modelstack on a GGUF model; else that shipped for its name."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Leave out the shipped adapter.")] = False,
    prior: Annotated[
        Path | None, typer.Option("--prior", help="Prior over tools, of `modelstack fit-prior`.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME=STAGE", help="Adapter as a model of its own; torch, several."),
    ] = None,
    convention: Annotated[
        str, typer.Option("--convention", help="How tools are shown and calls written; auto: as taught.")
    ] = "auto",
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Of requests that name none; 0: most probable token.")
    ] = 0.0,
    monitor: Annotated[
        str | None,
        typer.Option("--monitor", help="Probes that stop unsafe requests and replies: a name (small), or a file."),
    ] = None,
    window: Annotated[
        int | None, typer.Option("--context", min=16, help="Tokens of a conversation; else at most 8,192.")
    ] = None,
    running: Annotated[int, typer.Option("--running", min=1, help="Replies that are written together.")] = 8,
    waiting: Annotated[int, typer.Option("--waiting", min=0, help="Replies that may wait.")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds that a reply may take.")] = 600.0,
    max_body: Annotated[int, typer.Option("--max-body", min=1_000, help="Bytes of a request.")] = 8_000_000,
    drafter: Annotated[
        str,
        typer.Option("--drafter", help=DRAFTER_HELP),
    ] = "lookup",
    precision: Annotated[
        Numbers | None,
        typer.Option("--precision", help="Of the torch engine; if not given, int8 for int8 weights."),
    ] = None,
    prefill: Annotated[
        bool, typer.Option("--prefill-process", help="A second process reads long prompts, on the torch engine.")
    ] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of the engine.")] = None,
    no_key: Annotated[
        bool, typer.Option("--no-key", help=f"Serve other machines without {KEY_VARIABLE}.")
    ] = False,
    supervise: Annotated[
        bool,
        typer.Option("--supervise", help="Evaluate the model in a process of its own, started again if it ends."),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="vllm: folder of its options, of a router's, and of converted weights.")
    ] = Path("runs/vllm"),
    worker: Annotated[Path | None, typer.Option("--worker", metavar="SOCKET", hidden=True)] = None,
) -> None:
    """Serve a model to OpenAI's and Anthropic's clients.

    If the environment has MODELSTACK_API_KEY, clients must send it.
    """
    from modelstack.align.monitor.shipped import named_probe
    from modelstack.align.monitor.watch import new_watch
    from modelstack.inference.engine import EngineError
    from modelstack.inference.server.app import ServerApp
    from modelstack.inference.server.replying import Limits
    from modelstack.inference.server.served_model import ServedModel
    from modelstack.posttrain.weights_by_name import shipped_adapter
    from modelstack.toolcalls.prior.lexical import DecisionPrior, require_fitted_to

    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not no_key and not _is_loopback(host):
        raise UserError(
            f"--host {host} is reached by other machines, and no key protects the model: set {KEY_VARIABLE}, or "
            "give --no-key"
        )
    limits = Limits(running, waiting, timeout, max_body_bytes=max_body)
    _refuse_without_effect(context, engine)
    if engine is EngineName.vllm:
        served = name or Path(source).name.removesuffix(".gguf")
        _serve_by_vllm(
            VllmServer(served, host, port, window, running, [_named(each) for each in adapter or ()]),
            source,
            out,
            key,
        )
    if supervise and worker is None:
        raise typer.Exit(_supervise(host, port, key, limits))
    shipped = None
    if lora is None and prior is None and not (plain or adapter) and engine is not EngineName.torch:
        shipped = shipped_adapter(source)
    if shipped is not None:
        lora, prior = shipped
    fitted = None
    if prior is not None:
        fitted = DecisionPrior.read(prior)
        require_fitted_to(fitted, lora, prior)
    adapters = [_named(each) for each in adapter or ()]
    try:
        probe = None if monitor is None else named_probe(monitor)
        options = _EngineOptions(
            window,
            running,
            threads,
            Drafter.parse(drafter),
            precision,
            prefill,
            () if probe is None else probe.layers,
        )
        loaded, path = _load(source, engine, lora, adapters, options)
    except EngineError as error:
        raise UserError(str(error)) from error
    try:
        if probe is not None:
            probe.require_fitted_to(loaded.fingerprint, probe.layers)
        model = ServedModel(
            loaded,
            name or Path(source).name.removesuffix(".gguf"),
            adapters=[adapter_name for adapter_name, _ in adapters],
            convention=convention,
            has_adapter=lora is not None,
            prior=fitted,
            new_watch=None if probe is None else partial(new_watch, probe),
        )
        app = ServerApp(model, key=key, limits=limits, temperature=temperature).asgi()
        models = ", ".join((model.name, *model.adapters))
        convention_line = f"calls are written as {model.convention.name}: {model.why_convention}"
        if worker is not None:
            _listen_as_worker(app, worker, {"models": models, "convention": convention_line})
        else:
            server, listener, address = _listener(app, host, port)
            _tell(address, models, convention_line)
            server.run(sockets=[listener])
    finally:
        loaded.close()


def _refuse_without_effect(context: typer.Context, engine: EngineName) -> None:
    """Refuse options that the chosen engine does not have.

    Raises:
        UserError: One was given.
    """
    for name in context.params:
        source = context.get_parameter_source(name)
        is_given = source is not None and source.name == "COMMANDLINE"
        option = f"--{_OPTION_NAMES.get(name, name).replace('_', '-')}"
        if is_given and engine is EngineName.vllm and name not in FOR_VLLM:
            raise UserError(f"{option} is for the engines of this package, not for vllm; leave it out")
        if is_given and engine is not EngineName.vllm and name == "out":
            raise UserError(f"{option} is for --engine vllm: other engines write no files; leave it out")


def _serve_by_vllm(server: VllmServer, source: str, folder: Path, key: str | None) -> NoReturn:
    """Write vLLM's files and become its server.

    Raises:
        UserError: vLLM is not installed here; the files are written.
    """
    from modelstack.commands.vllm_engine import OPTIONS_FILE, ROUTER_FILE, start_vllm
    from modelstack.posttrain.weights_by_name import shipped_adapter, weights_path

    told = server.write(weights_path(source), folder)
    if shipped_adapter(source) is not None:
        told.append("the shipped adapter is for llama.cpp: vLLM serves the model without it")
    for sentence in (f"wrote {folder / OPTIONS_FILE} and {folder / ROUTER_FILE}", *told):
        print(sentence, file=sys.stderr)
    start_vllm(folder, key)
    raise UserError(
        f"vllm is not installed here: where it is, run `vllm serve --config {folder / OPTIONS_FILE}` "
        f"(with the key in VLLM_API_KEY)"
    )


def _server(app: Starlette, **settings: Any) -> uvicorn.Server:
    import uvicorn

    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again once it has stopped
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app,
        proxy_headers=False,
        **uvicorn_settings(),
        timeout_graceful_shutdown=GRACE_S,
        **settings,
    )
    return uvicorn.Server(config)


def _listener(app: Starlette, host: str, port: int) -> tuple[uvicorn.Server, socket.socket, str]:
    """Return a server, the socket that it is to listen on, and its address."""
    server = _server(app, host=host, port=port)
    listener = server.config.bind_socket()
    listener.listen(server.config.backlog)  # clients may ask as soon as the address is told
    address = f"{'[' + host + ']' if ':' in host else host}:{listener.getsockname()[1]}"
    return server, listener, address


def _tell(address: str, models: str, convention_line: str) -> None:
    print(f"http://{address}/v1 serves {models}", file=sys.stderr)
    print(convention_line, file=sys.stderr, flush=True)


def _listen_as_worker(app: Starlette, path: Path, told: dict[str, str]) -> None:
    """Serve on a Unix socket until standard input ends; `told` is printed when requests can come."""
    server = _server(app, uds=str(path))
    listener = server.config.bind_socket()
    listener.listen(server.config.backlog)

    def end_with_input() -> None:
        while os.read(sys.stdin.fileno(), 4_096):  # `sys.stdin` holds a lock that a process cannot end with
            pass
        server.should_exit = True

    threading.Thread(target=end_with_input, name="end of input", daemon=True).start()
    print(json.dumps(told), flush=True)
    server.run(sockets=[listener])


def _supervise(host: str, port: int, key: str | None, limits: Limits) -> int:
    """Serve in front of a worker that has this process's arguments; return the exit status."""
    import anyio

    from modelstack.inference.server.front import FrontApp
    from modelstack.inference.server.worker_process import Supervisor

    async def serve_in_front(folder: Path) -> int:
        supervisor = Supervisor(sys.argv[1:], folder, limits.max_running + limits.max_waiting)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.run)
            first = await supervisor.first()
            if first is None:
                return 1
            server, listener, address = _listener(FrontApp(supervisor, key=key, limits=limits).asgi(), host, port)
            _tell(address, first["models"], first["convention"])

            async def end_without_worker() -> None:
                await supervisor.given_up.wait()
                server.should_exit = True

            tasks.start_soon(end_without_worker)
            await server.serve(sockets=[listener])
            tasks.cancel_scope.cancel()
        return int(supervisor.given_up.is_set())

    with TemporaryDirectory(prefix="modelstack-serve-") as folder:
        return anyio.run(serve_in_front, Path(folder))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _named(adapter: str) -> tuple[str, Path]:
    """Return name and folder of an adapter."""
    name, separator, folder = adapter.partition("=")
    if not separator or not name or not folder:
        raise UserError(f"--adapter {adapter!r} has no name and folder; write NAME=STAGE")
    return name, Path(folder)


@dataclass(frozen=True, slots=True)
class _EngineOptions:
    """Options of both engines."""

    context_window: int | None
    max_running: int
    threads: int | None
    drafter: Drafter
    precision: Numbers | None
    has_prefill_process: bool
    state_layers: tuple[int, ...]
    """Layers that the monitor reads."""


def _load(
    source: str,
    engine: EngineName,
    lora: Path | None,
    adapters: Sequence[tuple[str, Path]],
    options: _EngineOptions,
) -> tuple[Engine, Path]:
    """Return the loaded engine, and the path of its weights."""
    from modelstack.inference.llama.engine import DEFAULT_CONTEXT_WINDOW, LlamaCppEngine
    from modelstack.posttrain.weights_by_name import weights_path

    path = weights_path(source)
    is_llama = engine is EngineName.llama or (
        engine is EngineName.auto and path.suffix == ".gguf" and not adapters
    )
    if is_llama:
        if adapters:
            raise UserError("--adapter is for the torch engine; on llama.cpp give one GGUF adapter with --lora")
        if options.drafter.folder is not None:
            raise UserError(f"the drafter {options.drafter.folder} is for the torch engine; add --engine torch")
        if options.precision is not None or options.has_prefill_process:
            raise UserError("--precision and --prefill-process are for the torch engine; add --engine torch")
        return (
            LlamaCppEngine(
                path,
                lora_path=lora,
                context_window=options.context_window,
                n_cells=CACHED_WINDOWS * (options.context_window or DEFAULT_CONTEXT_WINDOW),
                max_conversations=options.max_running,
                n_threads=options.threads,
                n_threads_prefill=options.threads,
                drafter=options.drafter.name,
                state_layers=options.state_layers,
            ),
            path,
        )
    if lora is not None:
        raise UserError("--lora is for llama.cpp; give the torch engine stages with --adapter NAME=STAGE")
    return _torch_engine(path, adapters, options), path


def _torch_engine(path: Path, adapters: Sequence[tuple[str, Path]], options: _EngineOptions) -> Engine:
    from modelstack.posttrain.lora.batch_adapter import engine_changes
    from modelstack.posttrain.lora.files import read_adapter
    from modelstack.posttrain.stages.stage import ADAPTER
    from modelstack.train.process import set_up_process

    set_up_process(options.threads)
    prefill = None
    if options.has_prefill_process:
        prefill = prefill_process(path, options.precision, options.threads, options.context_window)
    engine = torch_engine(
        load_torch_base(path, None, options.precision, options.drafter.folder),
        options.precision,
        context_window=options.context_window,
        max_rows=options.max_running,
        drafter=options.drafter.name,
        prefill=prefill,
        state_layers=options.state_layers,
    )
    for name, stage in adapters:
        engine.add_adapter(name, engine_changes(read_adapter(stage / ADAPTER)))
    return engine
