"""Reduction of a BPE vocabulary to fewer tokens, for a fair comparison with a smaller one.

Merges are learnt in order and each adds one token, so the first merges alone are the tokenizer that training to a
smaller size would have produced. A vocabulary of 49,152 ids needs fewer tokens for a text than one of 16,384 for
any training text. Reduced to 16,384, it shows the effect of its training text, pattern and digits.
"""

from __future__ import annotations

from modelstack.errors import UserError
from modelstack.tokenizer.text_tokenizer import SpecialNames, TextTokenizer, token_names


def cut_down(tokenizer: TextTokenizer, n_ids: int) -> TextTokenizer:
    """Return the tokenizer with its first merges only and `n_ids` ids; special tokens and alphabet are kept.

    Raises:
        UserError: The alphabet and the special tokens are more than `n_ids`.
    """
    description = tokenizer.description
    model, tokens = description["model"], token_names(description)
    made = {a + b for a, b in model["merges"]}
    kept = {token for i, token in enumerate(tokens) if token not in made or i in tokenizer.vocabulary.special_ids}
    if len(kept) > n_ids:
        raise UserError(f"{len(kept)} tokens do not come from merges, more than the {n_ids} ids of the vocabulary")
    for first, second in model["merges"]:
        if len(kept) == n_ids:
            break
        if first in kept and second in kept:
            kept.add(first + second)
    order = {token: i for i, token in enumerate(token for token in tokens if token in kept)}
    merges = [(a, b) for a, b in model["merges"] if {a, b, a + b} <= order.keys()]
    added = [{**token, "id": order[token["content"]]} for token in description["added_tokens"]]
    vocab = {token: i for token, i in order.items() if token in model["vocab"]}
    return TextTokenizer(
        {
            **description,
            "model": {**model, "vocab": vocab, "merges": merges},
            "added_tokens": added,
            "post_processor": None,
        },
        SpecialNames(tokenizer.names.begin, tokenizer.names.end, tokenizer.names.pad),
        tokenizer.chat_template,
    )
