"""Which target each training pair is learnt with: its reference, or what the dense model wrote for it."""

import dataclasses

import numpy as np

_STREAM = 1  # of the epoch's random numbers; the order of pairs takes those without it


@dataclasses.dataclass(frozen=True)
class TargetChoice:
    """Chooses between two targets of each pair, anew in each epoch; a function of (choice, seed, epoch).

    Attributes:
      references: index of each pair's reference among all targets, int64 [pairs]; -1: it has none.
      labels: index of what the dense model wrote, int64 [pairs]; -1: none is used. One of the two is there.
      share: probability that a pair with both is learnt with the label.
      seed: of the choice.
    """

    references: np.ndarray
    labels: np.ndarray
    share: float
    seed: int

    def pick(self, epoch: int) -> np.ndarray:
        """Returns the index of each pair's target in an epoch, int64 [pairs]."""
        drawn = np.random.default_rng((self.seed, epoch, _STREAM)).random(len(self.labels)) < self.share
        takes_label = (self.labels >= 0) & (drawn | (self.references < 0))
        return np.where(takes_label, self.labels, self.references)
