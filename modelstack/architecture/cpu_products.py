"""Choice of the library for fp32 matrix products on a CPU: MKL by default, oneDNN where MKL is slow.

For fp32, torch uses MKL. On AMD's processors MKL selects its AVX2 kernels even if the processor supports AVX-512.
oneDNN checks for AVX-512 itself: on one core of a Zen 5 it reaches 250 GFLOP/s and MKL 110, for all shapes of a
training step and of its gradients.

torch sends fp32 products to oneDNN only if it may round factors to bf16 ("medium" precision). oneDNN uses this
permission on processors with AMX and computes in fp32 on others (oneDNN documentation, "Floating-point math
mode"). The permission is therefore given only without AMX, and withdrawn if a product shows rounded factors.
"""

from __future__ import annotations

from functools import cache

import torch

SIZES = ((8, 64, 64), (256, 256, 256), (2048, 256, 64))
"""M, K, N of the test products; the kernel depends on the shape."""


def multiply_by_onednn() -> bool:
    """Make oneDNN multiply fp32 matrices in this process if it is faster and exact; return whether it does.

    The result depends only on the machine, not on timings, so a resumed run computes as before.
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
    """Return whether oneDNN multiplies fp32 matrices."""
    return torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # pyright: ignore[reportAttributeAccessIssue]


def keeps_fp32(M: int, K: int, N: int) -> bool:
    """Return whether a product of fp32 matrices uses all bits of its factors.

    bf16 and tf32 round 1 + 2^-12 to 1. In fp32, sums of up to 2^11 such numbers are exact in any order. So a
    product with ones equals K (1 + 2^-12) to the last bit.
    """
    factor = 1 + 2.0**-12
    left, right = torch.full((M, K), factor), torch.ones(K, N)
    products = (left @ right, right.T @ left.T)
    return all(bool((product == K * factor).all()) for product in products)


@cache
def _is_faster_and_exact() -> bool:
    """Return whether oneDNN supports instructions that MKL does not use, and cannot round factors."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # older torch keeps MKL
    if capabilities is None or not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if torch.cuda.is_available():  # the permission would also apply to the GPU
        return False
    has = capabilities()
    return str(has.get("cpu_name", "")).startswith("AMD") and has["avx512_f"] and not has["amx_tile"]
