"""Classifiers around a model: harmful requests, jailbreaks, injections, refusals. numpy and safetensors alone.

`assess` judges texts that go to a model, `refusal_judge` its replies. Each file of `weights/` has a model card in
`cards/`; `tools.classifiers` and `tools.refusal_judge` fit them.
"""
