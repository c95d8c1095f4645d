"""Step 8, preferences: losses on pairs and on single completions, reward models, and a constitution.

Reading order:

- `log_probs`: log-probabilities of completions, from hidden states;
- `pairs`: inputs of the losses;
- one file for each family of losses: `direct` (DPO and its relatives, with a reference), `reference_free` (CPO,
  SimPO, AlphaPO), `odds_ratio` (ORPO), `unpaired` (KTO);
- `run`: preference training on the driver of `modelstack.posttrain`;
- `reward`: the reward model;
- `constitution`: pairs and examples without human labels.
"""
