"""Which library multiplies fp32 matrices on a CPU: MKL, or oneDNN where MKL leaves half of the processor idle.

torch's own choice for fp32 is MKL, which on AMD's processors takes its AVX2 kernels, whatever they can do. oneDNN
asks for AVX-512 itself: on one core of a Zen 5 it reaches 250 GFLOP/s where MKL stays at 110, in all shapes of a
training step and of its gradients.

torch sends fp32 products to oneDNN only with the permission to round factors to bf16 ("medium" precision). oneDNN
makes use of the permission where the processor has AMX and computes in fp32 elsewhere (its documentation,
"Floating-point math mode"), so it is given without AMX only, and taken back if a product shows rounded factors.
"""

from __future__ import annotations

from functools import cache

import torch

SIZES = ((8, 64, 64), (256, 256, 256), (2048, 256, 64))
"""M, K, N of products that are looked at: kernels differ with shapes."""


def multiply_by_onednn() -> bool:
    """Let oneDNN multiply fp32 matrices in this process if it is faster and exact; say whether it does.

    The answer depends on the machine alone, not on timings: a run that goes on computes as it did before.
    """
    if is_by_onednn():
        return True
    if not _is_faster_and_exact():
        return False
    torch.set_float32_matmul_precision("medium")
    if not all(keeps_fp32(*size) for size in SIZES):
        torch.set_float32_matmul_precision("highest")
    return is_by_onednn()


def is_by_onednn() -> bool:
    """Say whether oneDNN multiplies fp32 matrices."""
    return torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # pyright: ignore[reportAttributeAccessIssue]


def keeps_fp32(M: int, K: int, N: int) -> bool:
    """Say whether a product of fp32 matrices reads all bits of its factors.

    bf16 and tf32 round 1 + 2^-12 to 1. In fp32 sums of up to 2^11 of it are exact in any order, so products with
    ones are K (1 + 2^-12) to the last bit.
    """
    factor = 1 + 2.0**-12
    left, right = torch.full((M, K), factor), torch.ones(K, N)
    products = (left @ right, right.T @ left.T)
    return all(bool((product == K * factor).all()) for product in products)


@cache
def _is_faster_and_exact() -> bool:
    """Say whether MKL leaves out what oneDNN uses, and oneDNN has no use for rounded factors."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # older torch stays with MKL
    if capabilities is None or not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if torch.cuda.is_available():  # the permission would hold there, too
        return False
    has = capabilities()
    return str(has.get("cpu_name", "")).startswith("AMD") and has["avx512_f"] and not has["amx_tile"]
