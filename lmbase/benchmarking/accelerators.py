"""GPUs as their vendors' data sheets list them: rates of matrix products without sparsity, memory, bandwidth."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
_GEFORCE = "https://images.nvidia.com/aem-dam/Solutions/geforce/"
_AMPERE = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"


@dataclass(frozen=True)
class Accelerator:
    """One device.

    Args:
        bf16: TFLOP/s with bfloat16 inputs summed in float32; None: it has no units for that.
        fp32: TFLOP/s in plain float32 (no TF32, which PyTorch leaves off).
        gigabytes: of memory, 10^9 bytes. bandwidth: GB/s from it.
        source: where that is written.
    """

    name: str
    bf16: float | None
    fp32: float
    gigabytes: float
    bandwidth: float
    source: str

    def rate(self, bf16: bool) -> float:
        """FLOP/s of large matrix products; in float32, where there is nothing for bfloat16."""
        return 1e12 * (self.bf16 if bf16 and self.bf16 else self.fp32)


LISTED = {
    gpu.name: gpu
    for gpu in (
        Accelerator("a100-40", 312, 19.5, 40, 1555, _NVIDIA + "a100/"),
        Accelerator("a100-80", 312, 19.5, 80, 2039, _NVIDIA + "a100/"),
        Accelerator("h100", 989, 67, 80, 3350, _NVIDIA + "h100/"),
        Accelerator("h200", 989, 67, 141, 4800, _NVIDIA + "h200/"),
        Accelerator("l4", 121, 30.3, 24, 300, _NVIDIA + "l4/"),
        Accelerator("l40s", 362, 91.6, 48, 864, _NVIDIA + "l40s/"),
        Accelerator("t4", None, 8.1, 16, 320, _NVIDIA + "tesla-t4/"),
        Accelerator("v100-16", None, 15.7, 16, 900, _NVIDIA + "v100/"),
        Accelerator("v100-32", None, 15.7, 32, 900, _NVIDIA + "v100/"),
        Accelerator("rtx3090", 71, 35.6, 24, 936, _AMPERE),
        Accelerator("rtx4090", 165.2, 82.6, 24, 1008, _GEFORCE + "ada/nvidia-ada-gpu-architecture.pdf"),
        Accelerator(
            "rtx5090", 209.5, 104.8, 32, 1792, _GEFORCE + "blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
        ),
        Accelerator(
            "mi300x", 1307, 163.4, 192, 5300, "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html"
        ),
    )
}


def parse_gpus(words: Sequence[str]) -> tuple[str, int]:
    """Kind and number from what a user writes: `h100 x8`, `h100x8`, `8xH100`, `rtx 4090 x2`, `a100-80`.

    Raises:
        ValueError: no kind, two numbers, or a number that is not 1 or more.
    """
    text = " ".join(words).lower().strip()
    first = re.match(r"(-?\d+) ?[x*] ?(?=[a-z])", text)
    last = re.search(r"(?<=[\w)]) ?[x*] ?(-?\d+)$", text)
    if first and last:
        raise ValueError(f"gpus={text!r}: two numbers of GPUs; write KIND xN, as in h100 x8.")
    number = int((first or last)[1]) if first or last else 1  # type: ignore[index]
    kind = text[first.end() :] if first else text[: last.start()] if last else text
    if number < 1:
        raise ValueError(f"gpus={text!r}: at least one GPU is needed (x1).")
    kind = re.sub(r"^(nvidia|amd|geforce|tesla|instinct|pcie|sxm)\b|gb$", "", re.sub(r"[\s_]+", "-", kind)).strip("-")
    if not kind or re.fullmatch(r"x\d+", kind):
        raise ValueError(f"gpus={text!r}: which GPU? Write KIND xN, as in h100 x8; known are {', '.join(LISTED)}.")
    return kind.replace("rtx-", "rtx"), number


def listed(kind: str) -> Accelerator:
    """The one of this kind.

    Raises:
        ValueError: it is not listed, or comes with different memories.
    """
    if kind in LISTED:
        return LISTED[kind]
    if f"rtx{kind}" in LISTED:
        return LISTED[f"rtx{kind}"]
    near = [name for name in LISTED if name.startswith(f"{kind}-")]
    near = near or difflib.get_close_matches(kind, LISTED, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(LISTED)}, and here."
    raise ValueError(
        f"gpus={kind!r} is not listed: {hint} For any other give its rates from the data sheet: --tflops (of bf16, or "
        "of fp32 with --dtype fp32, without sparsity), --gpu_gigabytes and, for the speed of writing, --gpu_bandwidth "
        "(GB/s)."
    )
