"""Differences between the policy-gradient algorithms on one fixed rollout, after the policy has changed."""
