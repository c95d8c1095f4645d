"""Classifiers around a model: harmful requests, jailbreaks, injections, refusals. numpy and safetensors alone.

`assess` is the entrance for texts that go to a model, `refusal_judge` for what comes back. The weights are in
`weights/`, with a model card for each in `cards/`; `tools.classifiers` and `tools.refusal_judge` fit them.
"""
