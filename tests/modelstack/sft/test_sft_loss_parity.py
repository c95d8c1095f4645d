"""Losses, masks and gradients of fine-tuning are TRL's, and packed examples do not see each other."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.architecture.presets.registry import from_hf
from modelstack.data.batches import Batch
from modelstack.data.examples import Example
from modelstack.posttrain.row_loader import RowOrder
from modelstack.sft.loader import SftLoader
from modelstack.sft.rendering import RenderOptions, RoleWeights, render
from modelstack.sft.tokenised import Tokenised, tokenise
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.tokenizer.chat_template import chat_encoder
from modelstack.tokenizer.tokenizer_folder import save_tokenizer
from modelstack.toolcalls.prompt import tools_prompt
from modelstack.train.step import local_state, train_step
from tests.modelstack.tokenizer.trained import text_tokenizer, trained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the reference: it warns of options that are asked for here
]

T = 512
EQUAL = RenderOptions(weights=RoleWeights.equal())


def examples() -> list[Example]:
    tool = {
        "name": "weather",
        "description": "Forecast",
        "parameters": {
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    }
    replies: list[dict[str, Any]] = [
        {"kind": "call", "calls": [{"name": "weather", "arguments": {"city": "Köln", "days": 3}}]},
        {"kind": "irrelevant"},
        {"kind": "clarify", "reply": "Which city do you mean?"},
        {
            "kind": "parallel",
            "calls": [{"name": "weather", "arguments": {"city": city}} for city in ("Oslo", "Lima", "Accra")],
        },
        {"kind": "answer", "reply": "Sunny."},
    ]
    said = ["the weather there for three days", "a joke", "Weather please!", "Oslo, Lima and Accra", "And now?"]
    base = {"source": "made", "license": "CC0-1.0", "tools": [tool]}
    return [
        Example.model_validate_json(
            json.dumps(base | reply | {"id": str(n), "messages": [{"role": "user", "content": content}]})
        )
        for n, (content, reply) in enumerate(zip(said, replies, strict=True))
    ]


def encoder() -> ChatEncoder:
    tokenizer = text_tokenizer()
    return chat_encoder(tokenizer)


def messages_of(example: Example) -> list[dict[str, str]]:
    """Return the conversation as other libraries take it."""
    rendered = render(example, encoder())
    reply = [token for token, is_target in zip(rendered.ids, rendered.labels_at, strict=True) if is_target][:-1]
    return [
        {"role": "system", "content": tools_prompt(example.specs, abstain=True)},
        {"role": "user", "content": example.messages[0].content},
        {"role": "assistant", "content": encoder().vocabulary.decode(reply)},
    ]


@pytest.fixture(scope="module")
def reference_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    folder: Path = save_tokenizer(trained(), tmp_path_factory.mktemp("tokenizer"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture(scope="module")
def models() -> tuple[Any, CausalLM]:
    """The same model in transformers and here."""
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(text_tokenizer().vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    ours = CausalLM(from_hf(config.to_dict() | {"model_type": "llama"}))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def trainer(models: tuple[Any, CausalLM], tokenizer: Any, folder: Path, **options: Any) -> Any:
    trl = pytest.importorskip("trl", reason="the reference; extra `dev`")
    datasets = pytest.importorskip("datasets", reason="the reference; extra `dev`")
    args = trl.SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        per_device_train_batch_size=2,
        disable_tqdm=True,
        assistant_only_loss=True,
        max_length=T,
        dataset_num_proc=None,
        **options,
    )
    rows = datasets.Dataset.from_list([{"messages": messages_of(example)} for example in examples()])
    return trl.SFTTrainer(models[0], args=args, train_dataset=rows, processing_class=tokenizer)


def batch_of(reference: Any) -> dict[str, Tensor]:
    rows = [reference.train_dataset[n] for n in range(len(reference.train_dataset))]
    return dict(reference.data_collator(rows))


def data() -> Tokenised:
    return tokenise({"all": examples()}, encoder(), row_tokens=T, options=EQUAL)


def one_epoch(layout: str, rows: int) -> list[Batch]:
    """Return the batches that hold each example once."""
    n = len(examples())
    config = RowOrder.model_validate({"row_tokens": T, "layout": layout, "window_rows": n, "group_rows": 1})
    return list(islice(SftLoader(data(), config, rows_per_batch=rows), n // rows))


def packed_batch() -> Batch:
    """Return all examples in one row."""
    tokens = data()
    row = int(tokens.lengths.sum())
    ids, labels, documents = [], [], []
    for n in range(tokens.n_examples):
        own, weights = (torch.from_numpy(array) for array in tokens.document(n))
        ids.append(own[:-1].long())
        labels.append(torch.where(weights[1:] > 0, own[1:].long(), IGNORED))
        documents.append(torch.full((len(own) - 1,), n))
    batch = Batch(*(torch.cat(parts)[None] for parts in (ids, labels, documents)), position=0)
    assert batch.ids_BT.shape == (1, row)
    return batch


def losses_and_gradients(ours: CausalLM, batches: list[Batch], token_loss: Any) -> tuple[float, dict[str, Tensor]]:
    """Return what a training step makes of micro-batches."""
    seen: dict[str, Tensor] = {}

    def judge(loss: float, norm: float) -> str:
        seen.update({name: p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None})
        return "only looked at"

    optimizer = torch.optim.SGD(ours.parameters(), lr=0.0)
    report = train_step(local_state(ours, optimizer, token_loss=token_loss), batches, judge=judge)
    return report.losses["total"], seen


def compare(theirs: Any, loss: Tensor, found: tuple[float, dict[str, Tensor]]) -> None:
    theirs.zero_grad()
    loss.backward()
    assert found[0] == pytest.approx(loss.item(), rel=1e-6)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert gradients.keys() == found[1].keys()
    for name, gradient in gradients.items():
        assert gradient is not None
        assert (gradient - found[1][name]).abs().max() < 1e-5 * max(1.0, gradient.abs().max().item()), name


@pytest.mark.parametrize(("loss_type", "token_loss"), [("nll", "cross_entropy"), ("dft", "dft")])
def test_loss_and_gradients_are_trls(
    loss_type: str, token_loss: str, models: Any, reference_tokenizer: Any, tmp_path: Path
) -> None:
    reference = trainer(models, reference_tokenizer, tmp_path, loss_type=loss_type)
    loss = reference.compute_loss(models[0], batch_of(reference))
    compare(models[0], loss, losses_and_gradients(models[1], one_epoch("padded", 5), token_loss))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_micro_batches_of_unequal_length_have_trls_loss_over_all_of_their_tokens(
    layout: str, models: Any, reference_tokenizer: Any, tmp_path: Path
) -> None:
    reference = trainer(models, reference_tokenizer, tmp_path)
    whole = batch_of(reference)
    n_labels = (whole["labels"][:, 1:] != IGNORED).sum()
    rows = [reference.train_dataset[n] for n in range(5)]
    loss = sum(
        reference.compute_loss(models[0], dict(reference.data_collator(part)), num_items_in_batch=n_labels)
        for part in (rows[:1], rows[1:4], rows[4:])
    )
    batches = one_epoch("padded", 1) if layout == "padded" else [packed_batch()]
    compare(models[0], loss, losses_and_gradients(models[1], batches, "cross_entropy"))  # pyright: ignore


def test_packed_rows_have_trls_loss_of_packed_rows(models: Any, reference_tokenizer: Any, tmp_path: Path) -> None:
    reference = trainer(models, reference_tokenizer, tmp_path, packing=True, packing_strategy="bfd")
    assert len(reference.train_dataset) < len(examples())
    loss = reference.compute_loss(models[0], batch_of(reference))
    compare(models[0], loss, losses_and_gradients(models[1], [packed_batch()], "cross_entropy"))


def test_ids_and_learnt_tokens_are_those_of_trls_assistant_masks(
    models: Any, reference_tokenizer: Any, tmp_path: Path
) -> None:
    reference = trainer(models, reference_tokenizer, tmp_path)
    for n, example in enumerate(examples()):
        rendered = render(example, encoder())
        row = reference.train_dataset[n]
        assert row["input_ids"] == rendered.ids
        labels = [
            t if is_target else IGNORED for t, is_target in zip(rendered.ids, rendered.labels_at, strict=True)
        ]
        assert dict(reference.data_collator([row]))["labels"][0].tolist() == labels


def test_logits_of_packed_examples_are_those_of_each_alone(models: Any) -> None:
    ours, packed, tokens = models[1], packed_batch(), data()
    with torch.no_grad():
        together = ours(packed.ids_BT, documents_BT=packed.documents_BT).logits_BTV[0]
        at = 0
        for n in range(tokens.n_examples):
            ids = torch.from_numpy(tokens.document(n)[0][:-1]).long()[None]
            alone = ours(ids).logits_BTV[0]
            assert (together[at : at + len(alone)] - alone).abs().max() < 1e-5 * alone.abs().max()
            at += len(alone)
        unmasked = ours(packed.ids_BT).logits_BTV[0]
    assert (together - unmasked)[
        int(tokens.lengths[0]) :
    ].abs().max() > 0.1  # without the mask they do see each other


def test_the_loaders_packed_rows_have_the_loss_of_their_examples_alone(models: Any) -> None:
    config = RowOrder(row_tokens=T, window_rows=4)
    packed = next(SftLoader(data(), config, rows_per_batch=2))
    alone = []
    for ids, labels, documents in zip(packed.ids_BT, packed.labels_BT, packed.documents_BT, strict=True):
        for number in documents.unique():
            place = documents == number
            alone.append(Batch(ids[None, place], labels[None, place], documents[None, place], 0))
    assert len(alone) > 4
    together = losses_and_gradients(models[1], [packed], "cross_entropy")
    apart = losses_and_gradients(models[1], alone, "cross_entropy")
    assert together[0] == pytest.approx(apart[0], rel=1e-6)
    assert all((together[1][name] - apart[1][name]).abs().max() < 1e-5 for name in apart[1])
