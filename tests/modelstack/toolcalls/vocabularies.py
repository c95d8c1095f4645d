"""Vocabularies for the tests: a small byte-level one made here, and the real one of SmolLM2 where it lies."""

from __future__ import annotations

from functools import lru_cache

from agentkit.models.catalog.entries import local_path
from modelstack.tokenizer.vocabulary import Vocabulary

_CORPUS = [
    '[{"name":"get_weather","arguments":{"city":"Paris","days":3,"unit":"celsius"}}]',
    '[{"name":"send_email","arguments":{"to":"a@b.org","subject":"hello world","cc":["x","y"]}}]',
    '{"result":{"title":"The end","items":[{"id":10,"ok":true},{"id":20,"ok":false}],"note":null}}',
    "The weather in Paris is sunny, and tomorrow it will rain. I cannot do that.",
    '"},{"name":"search","arguments":{"query":"café déjà vu","limit":100}}]',
]


def byte_level_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in plain}
    table.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)})
    return table


@lru_cache
def small() -> Vocabulary:
    """Return a byte-level BPE vocabulary of 600 tokens, trained on a few lines, with three control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    table = byte_level_alphabet()
    n = tokenizer.get_vocab_size()
    tokens = [bytes(table[c] for c in tokenizer.id_to_token(i) or "") for i in range(n)]
    tokens += [b"<|im_start|>", b"<|im_end|>", b"<|endoftext|>", b'"}}]', b'":{"', b'"],"', b'","']
    tokens += ["日本".encode(), "é日".encode()[:3]]
    special = frozenset(range(n, n + 3))
    return Vocabulary(tuple(tokens), special, (n + 1, n + 2), lambda text: tokenizer.encode(text).ids)


@lru_cache
def smollm2() -> Vocabulary:
    """Return SmolLM2's vocabulary read from its GGUF."""
    import gguf
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    fields = gguf.GGUFReader(local_path("smollm2-135m")).fields
    names = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ", 1)) for m in fields["tokenizer.ggml.merges"].contents()]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    table = byte_level_alphabet()
    special = frozenset(i for i, kind in enumerate(kinds) if kind != 1)
    tokens = tuple(
        name.encode() if i in special else bytes(table[c] for c in name) for i, name in enumerate(names)
    )
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return Vocabulary(
        tokens,
        special,
        (names.index("<|im_end|>"), names.index("<|endoftext|>")),
        lambda t: tokenizer.encode(t).ids,
    )
