"""Prints vLLM's log-probabilities of the most probable tokens at each position of a text, as JSON.

python -P vllm_log_probs.py FOLDER 5,9,3,7
"""

# pyright: reportMissingImports=false
# vLLM is installed in an environment of its own.
from __future__ import annotations

import json
import os
import sys


def main() -> None:
    folder, ids = sys.argv[1], [int(token) for token in sys.argv[2].split(",")]
    out, sys.stdout = sys.stdout, sys.stderr  # vLLM prints, too
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams

    sizes = {"max_model_len": 64, "max_num_seqs": 1}
    model = LLM(folder, dtype="bfloat16", enforce_eager=True, skip_tokenizer_init=True, **sizes)
    sampling = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, detokenize=False, prompt_logprobs=20)
    (found,) = model.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)
    places = found.prompt_logprobs[1:]  # nothing is before the first token
    log_probs = [{str(token): each.logprob for token, each in place.items()} for place in places]
    print(json.dumps(log_probs), file=out, flush=True)


if __name__ == "__main__":
    main()
