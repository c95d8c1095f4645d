"""Prior knowledge that is added to the logits of a reply: for tools, values and the number of calls."""
