"""llama.cpp in this process: library, model file, vocabulary, engine, rollouts."""
