"""Models on the meta device: shapes and types, nothing computed."""

from __future__ import annotations

import subprocess
import sys

import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.meta import on_meta
from tests.modelstack.architecture.gguf_models import toy_config


def test_a_model_on_the_meta_device_has_the_shapes_and_types_of_a_real_one() -> None:
    config = toy_config("llama")
    with on_meta():
        model = CausalLM(config)
    expected = CausalLM(config)
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    assert found == {name: (tensor.shape, tensor.dtype) for name, tensor in expected.state_dict().items()}
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert torch.empty(1).device.type == "cpu", "behind the block, tensors have memory again"


def test_making_one_imports_no_compiler() -> None:
    program = (
        "import sys\n"
        "from modelstack.architecture.decoder import CausalLM\n"
        "from modelstack.architecture.meta import on_meta\n"
        "from tests.modelstack.architecture.gguf_models import toy_config\n"
        "with on_meta():\n    CausalLM(toy_config('llama'))\n"
        "assert 'torch' in sys.modules and 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
