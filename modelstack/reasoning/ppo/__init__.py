"""PPO with a critic and a reward model or a verifier: 1707.06347, with InstructGPT's recipe (2203.02155)."""
