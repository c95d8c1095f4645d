"""Several models, or several LoRA adapters, as one."""
