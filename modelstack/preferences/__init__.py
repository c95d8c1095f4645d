"""Step 8, preferences: losses on pairs and on single completions, reward models, and a constitution.

Reading order: `log_probs` (of completions, from hidden states), `pairs` (inputs of the losses), then one file for
each family: `direct` (against a reference: DPO and its relatives), `reference_free` (CPO, SimPO, AlphaPO),
`odds_ratio` (ORPO), `unpaired` (KTO). `run` is the method on the driver of `modelstack.posttrain`, `reward` the
reward model. `constitution` makes pairs and examples without human labels.
"""
