"""Step 3: the vocabulary and how a conversation becomes token ids."""
