"""Peak speeds of accelerators, by the kind that jax names."""

_PEAKS = {  # the first name that the kind contains; makers' data sheets, dense, without sparsity
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12,
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
}  # fmt: skip


def peak_flops(kind: str) -> float | None:
    """Returns the floating-point operations a second of one device in bfloat16; None of a kind that is not known.

    Args:
      kind: `device_kind` of a jax device.

    Example:
      >>> peak_flops("NVIDIA H200"), peak_flops("cpu")
      (989000000000000.0, None)
    """
    return next((peak for name, peak in _PEAKS.items() if name in kind), None)
