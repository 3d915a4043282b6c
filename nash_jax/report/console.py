"""The report's table in plain text."""

from typing import Any


def summary(report: dict[str, Any]) -> str:
    """Quality, size and speed of dense and pruned, a line each."""
    dense, pruned = report["metrics"]["dense"], report["metrics"]["pruned"]
    params = report["params"]
    lines = [f"{'':28}{'dense':>12}{'pruned':>12}"]
    lines += [f"{name:28}{dense[name]:12.2f}{pruned[name]:12.2f}" for name in dense]
    lines += [f"{'parameters':28}{params['dense']:12,}{params['pruned']:12,}"]
    medians = {(r["model"], r["batch_size"]): r for r in report["benchmark"]}
    for size, factor in report["speedup"].items():
        times = [medians[name, int(size)] for name in ("dense", "pruned")]
        lines.append(
            f"{f'ms a batch of {size}':28}{times[0]['median_ms']:12.1f}{times[1]['median_ms']:12.1f}"
            f"   {factor:.2f}× (std {times[0]['std_ms']:.1f}, {times[1]['std_ms']:.1f}; {times[0]['runs']} runs)"
        )
    lines.append(
        f"encoder sparsity {100 * params['encoder_sparsity']:.1f} % counted, "
        f"{100 * params['expected_encoder_sparsity']:.1f} % expected; "
        f"decoder layers kept {params['kept_decoder_layers']} of {params['dense_decoder_layers']}"
    )
    return "\n".join(lines)
