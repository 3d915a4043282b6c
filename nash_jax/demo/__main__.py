"""`python -m nash_jax.demo --dense=FOLDER --pruned=FOLDER`: a page where two models answer the same text.

  --dense, --pruned   folders of models, or hub names; one without tokenizer, as finetune/model of a run, takes
                      that of the other
  --engine            jax (default), ctranslate2 or onnxruntime, for both
  --dtype             float32 (default), bfloat16, or int8 on CPUs; with --engine=ctranslate2 also int16, float16
  --prefix            goes before every text, such as --prefix="summarize: "
  --max_new_tokens    generated tokens at most; left out: the models' own limit
  --port              8765; 0: any that is free
  --host              127.0.0.1: this machine alone; 0.0.0.0: all who reach it, without a password

The page shows both outputs token by token with their times. Each model answers alone, the dense one first, by greedy
search. Ctrl-C ends it.
"""

import socket
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from nash_jax.errors import UserError, require_packages
from nash_jax.generation.arguments import ENGINES
from nash_jax.runtime.command import parse_flags, print_result, run_command

_TEXTS = {"dense": "", "pruned": "", "prefix": "", "host": "127.0.0.1"}
_DTYPES = ["float32", "bfloat16", "int8", "int16", "float16"]
_USAGE = "--dense=FOLDER --pruned=FOLDER [--engine=…] [--prefix=…] [--port=…]"


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    for name, default in _TEXTS.items():
        flags.DEFINE_string(name, default, "", flag_values=own)
    flags.DEFINE_enum("engine", "jax", list(ENGINES), "", flag_values=own)
    flags.DEFINE_enum("dtype", "float32", _DTYPES, "", flag_values=own)
    flags.DEFINE_integer("port", 8765, "", 0, 65535, flag_values=own)
    flags.DEFINE_integer("max_new_tokens", None, "", lower_bound=1, flag_values=own)
    parse_flags(own, argv, _USAGE)
    given = own.flag_values_dict()
    for name in ("dense", "pruned"):
        if not given[name]:
            raise UserError(f"no --{name}", _USAGE)
    return given


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that takes calls.

    Raises:
      UserError: if the port is in use, or the host is not this machine's.
    """
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} of {host}: {error}", "one that is free", "--port=0 takes any") from error


def _share_tokenizer(models: dict[str, Any]) -> None:
    """Gives a model without tokenizer, as the stages of a run write it, that of the other with the same vocabulary."""
    for model, other in zip(models.values(), reversed(models.values()), strict=True):
        if model.tokenizer is None and model.spec.vocab_size == other.spec.vocab_size:
            model.tokenizer = other.tokenizer


def run(argv: Sequence[str]) -> None:
    """Loads the models and serves the page until it is stopped.

    Raises:
      UserError: for flags or models that cannot be used, or a port in use.
    """
    given = _parse(argv)
    require_packages("demo")
    import uvicorn

    from nash_jax.demo.comparison import Comparison, Contestant
    from nash_jax.demo.server import make_app
    from nash_jax.runtime.compilation import enable_cache
    from nash_jax.seq2seq import load

    enable_cache()
    with _listen(given["host"], given["port"]) as listener:  # before the models, whose loading takes longer
        options = {} if given["max_new_tokens"] is None else {"max_new_tokens": given["max_new_tokens"]}
        models = {name: load(given[name], dtype=given["dtype"], engine=given["engine"]) for name in ("dense", "pruned")}
        _share_tokenizer(models)
        contestants = [Contestant(name, model, given["prefix"], options) for name, model in models.items()]
        hosts = ["127.0.0.1", "localhost"] if given["host"] in ("127.0.0.1", "localhost") else ["*"]
        app = make_app(Comparison(contestants), f"{given['engine']}, {given['dtype']}", hosts)
        print_result(f"open http://{given['host']}:{listener.getsockname()[1]}   (Ctrl-C ends it)")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
        server.run(sockets=[listener])


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with `sys.argv` unless arguments are given; its exit status: see `run_command`."""
    return run_command(run, sys.argv if argv is None else argv, __doc__, "choose smaller models, or --dtype=bfloat16")


if __name__ == "__main__":
    sys.exit(main())
