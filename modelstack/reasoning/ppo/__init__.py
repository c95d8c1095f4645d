"""PPO with a critic, against a reward model or a verifier: 1707.06347, with InstructGPT's recipe (2203.02155)."""
