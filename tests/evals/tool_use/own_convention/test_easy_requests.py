"""The twenty easy requests have right answers that their tools take, and a model is measured by them."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from agentkit import LocalModel
from evals.tool_use.own_convention.measuring import measured
from evals.tool_use.own_convention.requests import REQUESTS, TOOLS, is_right
from modelstack.toolcalls.grammar.schemas import normalise
from tests.modelstack.inference.tiny_gguf import write_tiny_gguf
from tests.modelstack.toolcalls.tool_templates import HERMES


def test_each_right_call_fits_the_schema_of_its_tool() -> None:
    schemas = {tool.name: normalise(tool.parameters_json_schema, is_arguments=True) for tool in TOOLS}
    assert (len(REQUESTS), len(schemas)) == (20, 4)
    assert {request.tool for request in REQUESTS} == set(schemas)
    for request in REQUESTS:
        Draft202012Validator(schemas[request.tool]).validate(dict(request.arguments))
        assert is_right(request, request.tool, request.arguments)
    assert not is_right(REQUESTS[0], "get_weather", {"city": "London"})
    assert is_right(REQUESTS[0], "get_weather", {"city": " paris", "unit": "celsius"})
    assert not is_right(REQUESTS[0], "read_file", {"city": "Paris"})


@pytest.mark.anyio
async def test_a_row_counts_calls_and_prompt_tokens(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", chat_template=HERMES)
    model = LocalModel(path, n_threads=1, n_threads_prefill=1)
    row = await measured(model, REQUESTS[:3])
    model.close()
    assert (row.convention, row.n_right) == ("hermes", 0)
    assert 0 <= row.n_called <= 3
    assert row.n_prompt_tokens > 300
