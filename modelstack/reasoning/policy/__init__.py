"""Policy gradients with verifiable rewards: GRPO and its relatives."""
