"""Step 9, reasoning: verifiers, policy gradients, distillation, merging.

The rooms, each of which knows only those before it: `worlds`, `verifiers` and `losses`; `tasks`; `sampling`;
`episodes`; `rejection`, `distil`, and the files of this folder, which are reinforcement by verified rewards;
`ppo`, which reads tasks and answers held-back ones as they do. `merging` stands alone.
"""
