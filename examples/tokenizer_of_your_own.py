"""Train a tokenizer on your own text: every text can be encoded, and text like yours takes few tokens."""

import tempfile
from pathlib import Path

from modelstack.tokenizer.tokenizer_folder import load_tokenizer, save_tokenizer
from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer

NOTES = Path(__file__).parent / "notes"
documents = [path.read_text(encoding="utf-8") for path in sorted(NOTES.glob("*.md"))]

# On the command line: modelstack tokenizer train vocab_size=512 notes -o tokenizer
trained = train_tokenizer(documents, TokenizerConfig(vocab_size=512, digits="1"))

with tempfile.TemporaryDirectory() as folder:
    # tokenizer.json and its configuration, which transformers loads, too.
    save_tokenizer(trained, folder)
    tokenizer = load_tokenizer(folder)

text = "Book the train to Lindau, 118 euros. Ü is in no note."
ids = tokenizer.encode(text)
print([tokenizer.decode_bytes([token]).decode("utf-8", "replace") for token in ids])
assert tokenizer.decode_bytes(ids).decode() == text
assert len(ids) < len(text.encode()) / 2
