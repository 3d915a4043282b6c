"""Which of many compromises between two goods are worth a look."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point dominates, by rising first and falling second coordinate.

    Both coordinates are better when larger. A point dominates another when it is nowhere worse and somewhere
    better; equal points do not dominate each other, so all of them are returned, in the order given.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i)):
        # Those before it are at least as far along the first coordinate: only the second can save it.
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return sorted(front, key=lambda i: (points[i][0], -points[i][1], i))
