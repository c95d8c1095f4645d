"""How far apart the policy-gradient algorithms are on one fixed rollout that the policy has moved away from."""
