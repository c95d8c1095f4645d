"""Prior knowledge that is added to the logits of a reply: which tool, which values, how many calls."""
