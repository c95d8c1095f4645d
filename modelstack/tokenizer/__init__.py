"""Step 3, tokenizer: vocabularies, chat templates, and encoding of conversations to token ids."""
