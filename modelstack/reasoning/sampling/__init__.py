"""Replies of a policy: free, under a grammar, many prompts at once, each token with its log-probability."""
