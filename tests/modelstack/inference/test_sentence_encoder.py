"""The sentence encoder in numpy against transformers: a small random BERT, and the real all-MiniLM-L6-v2."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelstack.errors import UserError
from modelstack.inference.minilm import embedder, load_encoder, minilm, minilm_folder, place
from modelstack.inference.minilm.embedder import CONFIG, FILES, TOKENIZER, WEIGHTS, TextEmbedder

TINY = Path(__file__).with_name("tiny_bert")
PINNED = {
    CONFIG: "5b41b1a66e5de6bbc127f3db1efe87e705581717c58a14bc0edb84b41edd15c6",
    WEIGHTS: "e5435c97bc6c9a1030c7d61cfdd99b7e4d0c47b90ef6148d1e9ecb246696aa37",
    TOKENIZER: "6c97aafd5490b91e81eb0e2dc6bbe0c35ec863309aed61783494ea9b1470e384",
}
TEXTS = [
    "the cat sat on the mat.",
    "search vectors index",
    "a",
    "",
    "The model is searching the index! " * 9,
    "cat mat cat sat on",
    "xyz, é 漢字 \u200b \ud800 end",
]


def reference(folder: Path, texts: list[str], max_tokens: int) -> NDArray[np.float32]:
    """Return the vectors by transformers: each text alone, the mean of its states, length 1."""
    torch = pytest.importorskip("torch", reason="needs torch (extra `train`)")
    transformers: Any = pytest.importorskip("transformers", reason="needs transformers (extra `dev`)")
    tokenizers = pytest.importorskip("tokenizers")
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    rows = []
    for text in texts:
        ids = tokenizer.encode(text.encode("utf-8", "replace").decode("utf-8")).ids
        with torch.no_grad():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        rows.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    return np.stack(rows)


def test_the_fixture_is_the_one_that_was_made() -> None:
    assert {name: hashlib.sha256((TINY / name).read_bytes()).hexdigest() for name in FILES} == PINNED


def test_an_adapter_is_added_to_the_weights(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    layer, rng = "encoder.layer.0.attention.self.query", np.random.default_rng(0)
    weights = load_file(TINY / WEIGHTS)
    n_out, n_in = weights[f"{layer}.weight"].shape
    down, up = rng.normal(size=(2, n_in)).astype(np.float16), rng.normal(size=(n_out, 2)).astype(np.float16)
    save_file({f"{layer}.A": down, f"{layer}.B": up}, tmp_path / "adapter.safetensors")
    merged = Path(shutil.copytree(TINY, tmp_path / "merged"))
    weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + up.astype(np.float32) @ down.astype(np.float32)
    save_file(weights, merged / WEIGHTS)
    adapted = load_encoder(TINY, "tiny", adapter=tmp_path / "adapter.safetensors")
    plain = load_encoder(TINY, "tiny")
    np.testing.assert_allclose(adapted.embed(TEXTS), load_encoder(merged, "merged").embed(TEXTS), atol=1e-6)
    assert adapted.name != plain.name and not np.allclose(adapted.embed(TEXTS), plain.embed(TEXTS), atol=1e-3)


def test_vectors_equal_those_of_transformers() -> None:
    encoder = load_encoder(TINY, "tiny")
    assert isinstance(encoder, TextEmbedder) and encoder.width == 32
    vectors = encoder.embed(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(vectors, reference(TINY, TEXTS, 48), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_vector_does_not_depend_on_the_texts_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(TINY, "tiny")
    alone = np.concatenate([encoder.embed([text]) for text in TEXTS])
    monkeypatch.setattr(embedder, "BATCH_TOKENS", 8)
    np.testing.assert_allclose(encoder.embed(TEXTS), alone, atol=1e-6)
    assert encoder.embed([]).shape == (0, 32)


def test_a_text_beyond_the_window_is_its_beginning() -> None:
    encoder = load_encoder(TINY, "tiny")
    words = ["the", "cat", "sat"] * 40
    long = encoder.embed([" ".join(words), " ".join(words[:46])])
    np.testing.assert_allclose(long[0], long[1], atol=1e-6)


def test_a_text_of_many_megabytes_is_cut_before_it_is_tokenised() -> None:
    encoder = load_encoder(TINY, "tiny")
    cut: list[int] = []
    tokenizer = encoder._tokenizer

    class Recording:
        def encode_batch(self, texts: list[str]) -> Any:
            cut.extend(map(len, texts))
            return tokenizer.encode_batch(texts)

    encoder._tokenizer = Recording()  # type: ignore[assignment]
    encoder.embed(["x" * 20_000_000])
    assert cut == [48 * embedder.MAX_CHARS_PER_TOKEN]


def test_one_string_is_refused() -> None:
    with pytest.raises(UserError, match=r"list of strings.*embed\(\[text\]\)"):
        load_encoder(TINY, "tiny").embed("text")
    with pytest.raises(UserError, match="list of strings"):
        load_encoder(TINY, "tiny").embed([b"text"])  # type: ignore[list-item]


def test_the_name_changes_with_the_weights(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    same = load_encoder(folder, "tiny").name
    assert same == load_encoder(TINY, "tiny").name and same.startswith("tiny@")
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS).write_bytes(weights)
    assert load_encoder(folder, "tiny").name != same


def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    return folder


def changed_config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        table = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        (folder / CONFIG).write_text(json.dumps({**table, **changes}), encoding="utf-8")

    return change


def not_finite(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    name = "embeddings.LayerNorm.bias"
    save_file({**tensors, name: tensors[name] * np.float32("nan")}, folder / WEIGHTS)


def written(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(data))


def void(_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), r"model\.safetensors' cannot be read: No such file"),
        (written(WEIGHTS, b"\0" * 100), "is not a safetensors file"),
        (written(CONFIG, b"{" * 50_000), "is not JSON"),
        (written(CONFIG, b"[]"), "must be a JSON object"),
        (written(TOKENIZER, b"{}"), "is not a tokenizer's file"),
        (changed_config(model_type="roberta"), "model_type='roberta'"),
        (changed_config(hidden_act="gelu_new"), "hidden_act='gelu_new'"),
        (changed_config(num_hidden_layers=10**9), "at most 64 layers"),
        (changed_config(num_hidden_layers=3), r"no tensor 'encoder\.layer\.2"),
        (changed_config(hidden_size="32"), "hidden_size='32'"),
        (changed_config(num_attention_heads=5), "does not divide"),
        (changed_config(hidden_size=64), "has the shape"),
        (changed_config(layer_norm_eps=0), "layer_norm_eps"),
        (changed_config(vocab_size=10), "two models"),
        (not_finite, "not finite; the file is damaged"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_encoder(folder, "tiny")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "MAX_FILE_BYTES", {**embedder.MAX_FILE_BYTES, WEIGHTS: 1_000})
    with pytest.raises(UserError, match="larger than 1000 bytes"):
        load_encoder(TINY, "tiny")


def test_a_missing_model_names_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(place, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="`agentkit models pull minilm`"):
        minilm()


def test_an_installed_package_is_used_without_its_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / place.PACKAGE
    shutil.copytree(TINY, package / "model")
    (package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert minilm_folder() == package / "model"
    first = minilm()
    assert first is minilm() and first.width == 32 and first.name.startswith("all-MiniLM-L6-v2@")
    shutil.copytree(TINY, tmp_path / "cache" / "models" / "minilm")
    assert minilm_folder() == tmp_path / "cache" / "models" / "minilm"  # what was fetched has priority


def test_the_real_model_is_embedded_without_torch_and_transformers(minilm_model: Path) -> None:
    code = (
        "import sys; from modelstack.inference.minilm import minilm\n"
        "v = minilm().embed(['a cat', 'a kitten', 'tax'])\n"
        "assert v[0] @ v[1] > 0.7 > 0.3 > v[0] @ v[2], v @ v.T\n"
        "bad = {'torch', 'transformers', 'scipy', 'llama_cpp', 'pydantic'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_real_model_equals_transformers(minilm_model: Path) -> None:
    texts = ["How do I resume a run after a crash?", "El gato duerme.", "naïve café 漢字", "word " * 400, ""]
    texts.append(Path(__file__).read_text(encoding="utf-8")[:700])
    np.testing.assert_allclose(minilm().embed(texts), reference(minilm_model, texts, 256), atol=2e-6)
