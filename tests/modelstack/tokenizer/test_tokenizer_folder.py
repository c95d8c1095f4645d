"""Folders of a tokenizer: transformers loads ours, our chat format learns its template, others' are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.errors import UserError
from modelstack.tokenizer import tokenizer_folder
from modelstack.tokenizer.chat import ChatEncoder, ChatMessage
from modelstack.tokenizer.chat_template import chat_format_of
from modelstack.tokenizer.gguf_tokenizer import gguf_fields
from modelstack.tokenizer.tokenizer_folder import load_tokenizer, save_tokenizer
from tests.modelstack.tokenizer.texts import LINES, fuzz
from tests.modelstack.tokenizer.trained import text_tokenizer, trained

KINDS: list[dict[str, Any]] = [
    {"pretokenizer": "qwen2"},
    {"pretokenizer": "o200k", "digits": "right-3", "special_placement": "start"},
    {"kind": "byte-fallback", "special_placement": "start"},
]
CONVERSATION = (
    ChatMessage("system", "Be brief."),
    ChatMessage("user", "What is 2+2?"),
    ChatMessage("assistant", "It is 4."),
    ChatMessage("tool", '{"lines": 42}'),
    ChatMessage("user", "Thanks!"),
)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_saved_tokenizer_comes_back(options: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tokenizer(trained(**options), tmp_path / "tokenizer")
    again, ours = load_tokenizer(folder), text_tokenizer(**options)
    assert again.vocabulary.fingerprint == ours.vocabulary.fingerprint
    assert (again.names, again.chat_template) == (ours.names, ours.chat_template)
    texts = [*LINES, *fuzz(200)]
    assert again.encode_batch(texts) == ours.encode_batch(texts)
    assert load_tokenizer(folder / "tokenizer.json").vocabulary.fingerprint == ours.vocabulary.fingerprint


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_transformers_loads_the_folder_and_encodes_alike(options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    folder = save_tokenizer(trained(**options), tmp_path / "tokenizer")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), text_tokenizer(**options)
    for text in LINES:
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs(text)["input_ids"] == [ours.vocabulary.bos_id, *ids]
        assert theirs.decode(ids).encode() == ours.decode_bytes(ids)
    assert theirs.eos_token_id == theirs.pad_token_id == ours.encode_template("<|end_of_text|>")[0]
    assert len(theirs) == len(ours.vocabulary)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_our_chat_rendering_equals_that_of_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    theirs = transformers.AutoTokenizer.from_pretrained(save_tokenizer(trained(**options), tmp_path / "tokenizer"))
    ours = text_tokenizer(**options)
    chat_format = chat_format_of(ours)
    assert (chat_format.source, chat_format.why_fallback) == ("template", None)
    encoder = ChatEncoder(chat_format, ours.vocabulary, ours.encode_template)
    messages = [{"role": message.role, "content": message.content} for message in CONVERSATION]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat_format.render(CONVERSATION, add_generation_prompt=True) == text
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert encoder.encode(CONVERSATION).ids + encoder.generation_ids("user") == ids
    assert encoder.end_ids == set(ours.vocabulary.end_ids)


def test_a_template_without_marks_for_turns_is_not_written(tmp_path: Path) -> None:
    from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer

    config = TokenizerConfig.model_validate({"vocab_size": 400, "special_tokens": {"turn": None}})
    folder = save_tokenizer(train_tokenizer(LINES, config), tmp_path)
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert load_tokenizer(folder).chat_template is None


def test_merges_in_the_form_of_older_files_are_the_same_merges(tmp_path: Path) -> None:
    made = text_tokenizer(pretokenizer="gpt2")
    merges = [" ".join(pair) for pair in made.description["model"]["merges"]]
    content = {**made.description, "model": {**made.description["model"], "merges": merges}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    older = load_tokenizer(tmp_path)
    assert older.encode_batch(LINES) == made.encode_batch(LINES)
    assert gguf_fields(older)["tokenizer.ggml.merges"] == merges


def test_what_a_tokenizer_was_made_from_lies_beside_it(tmp_path: Path) -> None:
    made = trained()
    stored = json.loads((save_tokenizer(made, tmp_path) / "tokenizer_training.json").read_text(encoding="utf-8"))
    assert stored["config"] == made.config.model_dump(mode="json")
    assert stored["config_sha256"] == made.config.fingerprint()
    assert (stored["n_documents"], stored["n_ids"]) == (made.n_documents, 1024)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer_training.json",
    }


def spoilt(folder: Path, **changes: Any) -> Path:
    """Write a folder whose tokenizer.json has other values at dotted keys."""
    content = json.loads(trained().tokenizer.to_str())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (content[part] if part else content)[name] = value
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, "has no model"),
        ({"added_tokens": {}}, "added_tokens are not a list"),
        ({"added_tokens": [{"id": "1", "content": "x"}]}, "is not an added token"),
        ({"model__vocab": ["a"]}, "must have a vocab"),
        ({"model__vocab": {"a": -1}}, "is not an integer from 0"),
        ({"model__vocab": {"a": True}}, "is not an integer from 0"),
        ({"model__vocab": {"a" * 2000: 0}}, "is empty or longer than"),
        ({"model__merges": ["a b c"]}, "is not a merge"),
        ({"model__merges": [1]}, "is not a merge"),
        ({"model__type": "Unigram"}, "only BPE is supported"),
        ({"model__continuing_subword_prefix": "a prefix longer than tokens"}, "the tokenizers library gave up"),
        ({"pre_tokenizer": {"type": "Unheard"}}, "not a tokenizer that the tokenizers library can run"),
        (
            {
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": "("},
                    "behavior": "Isolated",
                    "invert": False,
                }
            },
            "run",
        ),
    ],
    ids=str,
)
def test_a_tokenizer_json_that_cannot_be_is_refused_with_the_reason(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        load_tokenizer(spoilt(tmp_path, **changes))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2000) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_tokenizer_json_with_any_value_changed_loads_or_says_why_not(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = json.loads(trained(vocab_size=320).tokenizer.to_str())
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(place[key], dict | list) or not place[key]:
            break
        place = place[key]
    place[key] = data.draw(JSON)
    file = tmp_path_factory.getbasetemp() / "tokenizer.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    try:
        tokenizer = load_tokenizer(file)
    except UserError as error:
        assert str(error)
    else:
        assert tokenizer.vocabulary.special_ids.isdisjoint(tokenizer.encode("a <|im_end|> b"))


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "is not JSON"), ("[1]", "contains a list"), ("[" * 100_000, "is not JSON")]
)
def test_a_file_that_is_no_json_object_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        load_tokenizer(tmp_path)


def test_a_file_larger_than_any_tokenizer_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_folder, "MAX_FILE_BYTES", 100)
    with pytest.raises(UserError, match=r"bytes; at most 100 are read"):
        load_tokenizer(spoilt(tmp_path))


def test_a_folder_without_a_tokenizer_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json does not exist"):
        load_tokenizer(tmp_path)


def test_names_and_templates_are_read_in_the_forms_that_older_and_newer_files_have(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "bos_token": {"content": "<|begin_of_text|>"},
        "eos_token": "<|im_end|>",
        "chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}],
    }
    spoilt(tmp_path, post_processor=None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert (loaded.chat_template, loaded.names.begin, loaded.vocabulary.bos_id) == (
        "yes",
        "<|begin_of_text|>",
        None,
    )
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}", encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert loaded.chat_template == "{{ bos_token }}"
    assert loaded.vocabulary.bos_id == trained().tokenizer.token_to_id("<|begin_of_text|>")


def test_a_template_longer_than_any_is_refused(tmp_path: Path) -> None:
    (spoilt(tmp_path) / "chat_template.jinja").write_text("x" * 200_000, encoding="utf-8")
    with pytest.raises(UserError, match="chat template of 200,000 characters"):
        load_tokenizer(tmp_path)
