"""Step 8, preferences: what is minimised on pairs of completions, on single verdicts, and by a reward model.

Reading order: `log_probs` (of completions, from hidden states), `pairs` (what the losses read), then one file for
each family: `direct` (against a reference: DPO and its relatives), `reference_free` (CPO, SimPO, AlphaPO),
`odds_ratio` (ORPO), `unpaired` (KTO), `reward_model`. `constitution` makes pairs and examples
without human labels.
"""
