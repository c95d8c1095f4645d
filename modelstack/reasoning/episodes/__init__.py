"""Episodes: conversations in which the policy's tool calls are executed and it reads the results."""
