"""A system in a process of its own, that generates when it is told to: libraries of threads do not share a process.

Both sides speak in lines of JSON over standard input and output.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.benchmark.peer_systems import SYSTEMS, limit_threads, read_bandwidth
from nash_jax.errors import UserError

BANDWIDTH = "bandwidth"
_PAUSE_S = 0.3  # threads that wait by spinning give up after 0.2 s; then the next system may run


class PeerProcess:
    """The side of the one who asks.

    Args:
      system: name in `SYSTEMS`, or `BANDWIDTH`.
      folder: the model as the system reads it.
      threads: number of threads.
    """

    def __init__(self, system: str, folder: Path, threads: int) -> None:
        command = [sys.executable, "-m", "nash_jax.benchmark.peer_process", system, str(folder), str(threads)]
        self.system, self._process = system, subprocess.Popen(
            command, env=limit_threads(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip

    def ask(self, ids: np.ndarray, tokens: int, beams: int) -> tuple[float, list[list[int]]]:
        """Generates; returns milliseconds and the tokens [B, T].

        Raises:
          UserError: if the process has ended.
        """
        assert self._process.stdin and self._process.stdout
        time.sleep(_PAUSE_S)
        try:
            self._process.stdin.write(json.dumps({"ids": ids.tolist(), "tokens": tokens, "beams": beams}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise UserError(f"the process of {self.system} has ended", do="see its message above") from error
        return answer["ms"], answer["found"]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def _serve(system: str, folder: Path, threads: int) -> None:
    """The other side: loads, then answers until its input ends."""
    generate: Any
    if system == BANDWIDTH:
        read = read_bandwidth()
        generate = lambda ids, tokens, beams: read()[:0].astype(int)  # noqa: E731
    else:
        generate = SYSTEMS[system][2](folder, threads)
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints
    for line in sys.stdin:
        asked = json.loads(line)
        ids = np.array(asked["ids"], np.int32)
        begun = time.perf_counter()
        found = generate(ids, asked["tokens"], asked["beams"])
        ms = 1000 * (time.perf_counter() - begun)
        print(json.dumps({"ms": ms, "found": found.tolist()}), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
