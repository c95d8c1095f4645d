"""Step 12: classifiers around a model: request harm, jailbreak, injection, refusal. numpy at inference."""
