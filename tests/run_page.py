"""Runs the blocks of pages of the documentation, in order, in the current folder: `run_page.py PAGE …`.

With --slow, blocks that are marked slow are run too; --first=COMMAND is run before all pages. A process of its own has
one device, compiles quickly, and reads config files as a user's process does. Commands are called
in it, not started: that saves seconds of imports each.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request

from commands import on_devices

os.environ |= on_devices(1)

from doc_blocks import COMMANDS, ROOT, read_blocks, shell_commands

import nash_jax
import nash_jax.generate
import nash_jax.main
import nash_jax.recipe.api
import nash_jax.vocabulary.__main__

PHASES = ("finetune", "prune", "retrain")
SMALL = {  # flags that make a command small, by what it runs
    "configs/local.py": [
        *(f"--config.{phase}.{setting}" for phase in PHASES for setting in ("batch_size=8", "eval_every=9.0")),
        *("--config.prune.epochs=1.0", "--config.prune.prepruning_epochs=0.0"),
        *("--config.prune.sparsity_warmup_epochs=0.5", "--config.retrain.epochs=1.0"),
        *("--config.task.max_source_length=16", "--config.task.max_target_length=8", "--config.task.max_new_tokens=4"),
        *("--config.benchmark.runs=2", "--config.benchmark.batch_sizes=(1,)", "--config.benchmark.source_length=8"),
        *("--config.benchmark.new_tokens=(4,)", "--config.model.dtype=float32"),
    ],
    "configs/quickstart.py": [
        *("--config.task.max_train_examples=400", "--config.task.max_eval_examples=40"),
        *("--config.task.max_source_length=8", "--config.task.max_target_length=8", "--config.task.max_new_tokens=8"),
        *("--config.model.d_model=16", "--config.model.d_ff=24", "--config.model.decoder_d_ff=16"),
        *("--config.model.num_heads=2", "--config.model.encoder_layers=2", "--config.model.decoder_layers=3"),
        *(f"--config.{phase}.optimizer=adamw" for phase in PHASES),
        *(f"--config.{phase}.batch_size=32" for phase in PHASES),
        *("--config.benchmark.batch_sizes=(1,)", "--config.benchmark.source_length=8"),
        *("--config.benchmark.new_tokens=(8,)", "--config.benchmark.runs=2"),
    ],
}


def small_defaults():
    """`nash_jax.default_config()` of a short run."""
    config = nash_jax.default_config()
    for phase in PHASES:
        config[phase].update(epochs=1.0, batch_size=8, eval_every=9.0)
    config.prune.update(prepruning_epochs=0.0, sparsity_warmup_epochs=0.5)
    config.task.update(max_source_length=16, max_target_length=8, max_new_tokens=4)
    config.benchmark.update(batch_sizes=(1,), source_length=8, new_tokens=(4,), runs=2)
    return config


PORT = "8000"  # of the page; another may be in use


def run_python(block, names):
    exec(compile(block.text.replace(PORT, "0"), block.place, "exec"), names)  # the system chooses a free port


def run_shell(block, names):
    for words in shell_commands(block.text):
        if words[0] == "curl":
            ask_server(names["server"], words)
        elif words[0] == "cp":
            subprocess.run(words, check=True)
        else:
            run_command(words, block.place)


def run_command(words, place):
    """One command of ours, in this process where it can be called."""
    assert words[:2] == ["python", "-m"], f"{place}: no way to run {words}"
    small = [flag for key, more in SMALL.items() if any(key in word for word in words) for flag in more]
    argv = words[2:] + small
    if words[2] == "nash_jax.main":
        status = nash_jax.main.main(argv)
    elif words[2] == "nash_jax.generate":
        status = nash_jax.generate.main(argv)
    elif words[2] == "nash_jax.vocabulary":
        status = nash_jax.vocabulary.__main__.main(argv)
    else:
        status = subprocess.run([sys.executable, "-m", *argv], check=False, env=None).returncode
    assert status == 0, f"{place}: {' '.join(words)}"


def ask_server(server, words):
    """What curl does, while the page's server runs in a thread."""
    data, address = words[words.index("--data") + 1], words[-1].replace(PORT, str(server.server_port))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with urllib.request.urlopen(address, data.encode()) as answer:
        assert len(json.loads(answer.read())) == len(json.loads(data))
    server.shutdown()
    thread.join()
    server.server_close()


def run_page(page, slow):
    """All blocks of a page that are to be run, in order; Python's share their names."""
    names = {"__name__": "__main__"}
    for block in read_blocks(ROOT / page):
        if block.language in COMMANDS and not block.reason and (slow or not block.is_slow):
            begun = time.process_time()
            if block.language == "python":
                run_python(block, names)
            else:
                run_shell(block, names)
            if "get_config" in names:  # the block defines a config file
                names.pop("get_config")()
            print(f"-- {block.place}: {time.process_time() - begun:.1f} s of CPU", flush=True)


if __name__ == "__main__":
    nash_jax.recipe.api.default_config = small_defaults
    arguments = sys.argv[1:]
    for first in (word.removeprefix("--first=") for word in arguments if word.startswith("--first=")):
        run_command(first.split(), "first")
    for page in (word for word in arguments if not word.startswith("--")):
        run_page(page, "--slow" in arguments)
