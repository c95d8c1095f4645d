"""Tamper report: refusals after the direction of refusal is projected out, and after a short fine-tuning."""
