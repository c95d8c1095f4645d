"""Calls that wait for a decision, the decisions, and the rules that require one."""
