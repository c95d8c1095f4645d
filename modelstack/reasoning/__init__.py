"""Step 9, reasoning: verifiers, policy gradients, distillation, merging."""
