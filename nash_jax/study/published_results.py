"""What "To Asymmetry and Beyond" (Campos & Zhai 2023) published, to be set beside one's own results."""

from typing import Any, NamedTuple

SOURCE = (
    "Published: Campos & Zhai 2023, “To Asymmetry and Beyond”: FLAN-T5-large on CNN/DailyMail, one A10, float32 "
    "PyTorch, greedy, outputs stopped at 20 tokens."
)
BATCH_SIZES = (1, 8, 16)


class PublishedRow(NamedTuple):
    """ROUGE-2 and the speedups at `BATCH_SIZES` over the model with all layers."""

    rouge2: float
    speedups: tuple[float, float, float]

    @property
    def change(self) -> float:
        """Relative change of ROUGE-2 against the model with all layers."""
        return self.rouge2 / FLAN_T5_LARGE[6, 6].rouge2 - 1


FLAN_T5_LARGE = {  # (sixths of the encoder's layers kept, of the decoder's) → row
    (6, 6): PublishedRow(21.15, (1.0, 1.0, 1.0)),
    (6, 3): PublishedRow(21.08, (1.65, 1.18, 1.15)),
    (6, 2): PublishedRow(20.67, (2.03, 1.25, 1.22)),
    (6, 1): PublishedRow(19.49, (2.70, 1.36, 1.29)),
    (3, 6): PublishedRow(20.53, (1.14, 1.48, 1.54)),
    (1, 6): PublishedRow(18.68, (1.27, 2.21, 2.43)),
    (3, 3): PublishedRow(20.13, (1.94, 1.96, 1.97)),
    (1, 1): PublishedRow(15.51, (4.96, 5.54, 5.64)),
}


def sixths(kept: Any, dense: Any) -> int | None:
    """Layers kept as sixths of a depth, rounded as the study's lists round them; None where it is no number of them.

    Example: 5 of 8 layers are the study's four sixths (8 · 4 / 6 = 5.3).
    """
    if not isinstance(kept, int) or not isinstance(dense, int) or not 0 < kept <= dense:
        return None
    return next((number for number in range(1, 7) if dense * number // 6 == kept), None)
