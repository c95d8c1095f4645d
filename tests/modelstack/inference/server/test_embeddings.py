"""Embeddings over OpenAI's client on both engines, beside transformers' hidden states of the same weights."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from modelstack.inference.embedding import NoEmbeddingsError
from modelstack.inference.engine import ContextWindowError, EngineError
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.server.served_model import ServedModel
from tests.modelstack.inference.fakes import FakeContext, FakeEngine
from tests.modelstack.inference.server.serving import NAME, Served, served
from tests.modelstack.inference.tiny_gguf import tiny_tokenizer, write_tiny_gguf

TEXTS = ["a fox", "The quick brown fox jumps over the lazy dog. " * 12, "x", "a fox", "Ünïcödé 🦊 你好"]
"""Short texts, which are evaluated together, and one that takes several chunks."""
Reference = Callable[[list[int]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def states_of(tiny_gguf: Path) -> Reference:
    """The last hidden states of transformers' Llama with the weights of the tiny file."""
    torch = pytest.importorskip("torch", reason="needs torch (extra `train`)")
    import transformers

    from modelstack.architecture.gguf.load import load_gguf

    ours = load_gguf(tiny_gguf, dtype=torch.float32).model
    config = ours.config
    llama = transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads, rms_norm_eps=config.rms_norm_eps,
            max_position_embeddings=config.max_position_embeddings,
        )
    ).eval()  # fmt: skip
    llama.load_state_dict(ours.model.state_dict(), strict=True)

    def states(ids: list[int]) -> NDArray[np.float32]:
        with torch.no_grad():
            return llama(torch.tensor([ids])).last_hidden_state[0].numpy()

    return states


def unit(vector: NDArray[Any]) -> NDArray[Any]:
    return vector / np.linalg.norm(vector)


def test_vectors_are_the_mean_of_the_last_hidden_states(
    client: openai.OpenAI, server: Served, states_of: Reference
) -> None:
    tokens = [server.model.encode(text) for text in TEXTS]
    expected = np.stack([unit(states_of(ids).mean(axis=0)) for ids in tokens])
    asked: list[Any] = [TEXTS, tokens]
    for given in asked:
        for encoding in ("float", "base64"):
            found = client.embeddings.create(model=NAME, input=given, encoding_format=encoding)
            assert [each.index for each in found.data] == list(range(len(TEXTS)))
            assert found.usage.prompt_tokens == found.usage.total_tokens == sum(map(len, tokens))
            vectors = [
                np.frombuffer(base64.b64decode(each.embedding), "<f4")  # pyright: ignore[reportArgumentType]
                if isinstance(each.embedding, str)
                else np.array(each.embedding)
                for each in found.data
            ]
            assert np.stack(vectors) == pytest.approx(expected, abs=2e-4)  # keys and values in float16
    (one,) = client.embeddings.create(model=NAME, input=tokens[0], dimensions=64).data
    assert one.embedding == pytest.approx(expected[0].tolist(), abs=2e-4) and one.object == "embedding"


def test_streams_go_on_beside_embeddings_as_without_them(server: Served) -> None:
    body = {"model": NAME, "prompt": "Once", "max_tokens": 120, "ignore_eos": True}
    embeds = {"model": NAME, "input": [TEXTS[1] * 2] * 4}
    ends = threading.Event()
    statuses = list[int]()

    def embed() -> None:
        with server.client as http:
            while not ends.is_set():
                statuses.append(http.post("/v1/embeddings", json=embeds).status_code)

    with server.client as http:
        alone = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
        thread = threading.Thread(target=embed)
        thread.start()
        try:
            for _ in range(2):
                assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == alone
        finally:
            ends.set()
            thread.join()
    assert set(statuses) == {200}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"input": ""}, "input", "input is empty"),
        ({"input": []}, "input", "empty list"),
        ({"input": ["a", ""]}, "input.1", "input.1 is empty"),
        ({"input": [[1], []]}, "input.1", "input.1 is empty"),
        ({"input": ["a"] * 2049}, "input", "2,049 texts; give at most 2,048"),
        ({"input": "word " * 1200}, "input", "tokens, and the model's window is 1,024"),
        ({"input": [[3], [4] * 1025]}, "input.1", "input.1 has 1,025 tokens"),
        ({"input": [5, 512]}, "input", "token 512; the model's are 0 to 511"),
        ({"input": [[-1]]}, "input.0", "token -1"),
        ({"input": [[7] * 1000] * 301}, "input", "more than 300,000 tokens"),
        ({"input": {"text": "a"}}, "input", "given: "),
        ({"input": "a", "encoding_format": "base65"}, "encoding_format", "given: 'base65'"),
        ({"input": "a", "dimensions": 32}, "dimensions", "dimensions=32 .* they have 64 numbers"),
        ({"input": "a", "dimension": 32}, "dimension", "not known"),
        ({}, "input", "required"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_has_no_vector_is_refused_by_its_field(
    tiny_server: Served, fields: dict[str, Any], param: str, says: str
) -> None:
    with tiny_server.client as http:
        response = http.post("/v1/embeddings", json={"model": NAME, **fields})
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and re.search(says, error["message"], re.IGNORECASE), error


def test_a_model_without_embeddings_says_so() -> None:
    model: Any = ServedModel.__new__(ServedModel)
    model.engine, model.name, model.adapters = FakeEngine(FakeContext()), NAME, ()
    with served(model) as found, found.client as http:
        response = http.post("/v1/embeddings", json={"model": NAME, "input": "a"})
    error = response.json()["error"]
    assert response.status_code == 400 and error["code"] == "embeddings_not_supported"
    assert "has no embeddings" in error["message"]


def test_each_adapter_has_vectors_of_its_own() -> None:
    pytest.importorskip("torch", reason="needs torch (extra `train`)")
    import torch

    from tests.modelstack.inference.test_batch_adapters import adapted, engine_with
    from tests.modelstack.inference.torch_engines import model_of

    models = {None: model_of("llama")} | {name: adapted("llama", name)[1] for name in ("calls", "sums")}
    texts = [[5, 6, 7], [8, 9], [5, 6, 7]]
    with engine_with("llama", "calls", "sums") as engine:
        for name, model in models.items():
            with torch.no_grad():
                states = [model(torch.tensor([ids])).hidden_BTD[0].numpy() for ids in texts]
            expected = [unit(each.mean(axis=0)) for each in states]
            assert engine.embed(texts, adapter=name) == pytest.approx(np.stack(expected), abs=1e-5)
            assert engine.embed(texts[:1], adapter=name)[0] == pytest.approx(expected[0], abs=1e-5)
        with pytest.raises(EngineError, match="no adapter 'poems'"):
            engine.embed(texts, adapter="poems")


def test_a_second_context_grows_with_the_texts_and_ends_with_the_engine(tiny_gguf: Path) -> None:
    engine = LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1)
    assert engine.n_embedding_cells == 0
    first = engine.embed([[5, 6, 7]])
    assert engine.n_embedding_cells == 512
    engine.embed([[5] * 600])
    assert engine.n_embedding_cells == 1024
    assert engine.embed([[5, 6, 7]]) == pytest.approx(first, abs=1e-6)
    with pytest.raises(EngineError, match="cancelled"):
        engine.embed([[5, 6, 7]], cancelled=lambda: True)
    with pytest.raises(ContextWindowError, match="1025 tokens"):
        engine.embed([[5] * 1025])
    with pytest.raises(EngineError, match="no adapter 'calls'"):
        engine.embed([[5]], adapter="calls")
    engine.close()
    assert engine.n_embedding_cells == 0
    with pytest.raises(EngineError, match="closed"):
        engine.embed([[5, 6, 7]])


def test_a_file_that_names_its_pooling_gets_it(tmp_path: Path, states_of: Reference) -> None:
    last = write_tiny_gguf(tmp_path / "last.gguf", pooling=gguf.PoolingType.LAST)
    with LlamaCppEngine(last, n_threads=1, n_threads_prefill=1, kv_type="f32") as engine:
        ids = ServedModel(engine, NAME).encode("a fox") + engine.embedding_suffix()
        assert ids[-1] == tiny_tokenizer().token_to_id("<|im_end|>")
        assert engine.embed([ids])[0] == pytest.approx(unit(states_of(ids)[-1]), abs=1e-5)
    other = write_tiny_gguf(tmp_path / "cls.gguf", pooling=gguf.PoolingType.CLS)
    with (
        LlamaCppEngine(other, n_threads=1, n_threads_prefill=1) as engine,
        pytest.raises(NoEmbeddingsError, match="models that write"),
    ):
        engine.embed([[5]])


def test_a_client_that_leaves_ends_its_embeddings(tiny_server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ended = tiny_server.model.engine, threading.Event()

    def slow(texts: Any, *, adapter: Any, cancelled: Callable[[], bool]) -> None:
        while not cancelled():
            ended.wait(0.01)
        ended.set()
        raise EngineError("the embeddings were cancelled")

    monkeypatch.setattr(engine, "embed", slow)
    with tiny_server.client as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/embeddings", json={"model": NAME, "input": "a"}, timeout=0.3)
    assert ended.wait(30)
    with tiny_server.client as http:
        assert any("modelstack_replies_open 0.0" in http.get("/metrics").text for _ in range(1_000))
