"""A table of models and devices: which mesh, what is compiled, what is not compiled twice."""

import json

import pytest
from commands import call

from nash_jax.benchmark import plan_configs, plan_jobs, plan_table
from nash_jax.benchmark.plan_table import Pair, choose_mesh, format_table, make_job
from nash_jax.benchmark.topologies import describe_topology
from nash_jax.config.shipped import names, shipped_file
from nash_jax.errors import UserError


def test_how_many_devices_and_how_large():
    assert describe_topology("v5e:4x4") == (16, 16 * 2**30)
    assert describe_topology("v6e:16x16") == (256, 32 * 2**30)
    assert describe_topology("h200:8") == (8, 141_000_000_000)
    assert describe_topology("cpu:4") == (4, None)
    for wrong in ("v5e", "v5e:", "v5e:4x", "h100:8", "cpu:0"):
        with pytest.raises(UserError, match="a kind and a size"):
            describe_topology(wrong)


def test_the_state_is_divided_where_it_takes_more_than_half():
    parameters = 2**30  # 16 GiB with gradient and moments
    assert choose_mesh(parameters, 16, 32 * 2**30) == "data:16"
    assert choose_mesh(parameters, 16, 31 * 2**30) == "fsdp:16"
    assert choose_mesh(parameters, 1, 2**30) == "data:1"


def test_a_device_computes_four_rows_at_a_time():
    flags = {topology: make_job(Pair("t5-11b", topology), []).flags for topology in ("v5e:1x1", "v5e:4x4", "v6e:16x16")}
    found = [next(flag for flag in own if "accumulation" in flag).partition("=")[2] for own in flags.values()]
    assert found == ["64", "4", "1"] and "--mesh=fsdp:256" in flags["v6e:16x16"]


def row(part, fits, flops, **sizes):
    names = {"mesh": "fsdp:16", "program": f"prune: {part}", "seconds": None, "refused": ""}
    return names | {"fits": fits, "flops": flops, "arguments": 0, "temporaries": 0, "collectives": {}} | sizes


def test_what_is_shown():
    sizes = {"arguments": 3 * 2**30, "temporaries": 2**30, "collectives": {"all-gather": [7, 2**29]}}
    fits = [row("gradients", True, 197e12 / 1000, **sizes), row("update", True, 1.0, arguments=2**31)]
    gpu = [row("gradients", True, None, **sizes), row("update", True, None, arguments=2**31)]
    full = [row("gradients", False, None, temporaries=2**40), row("update", False, 1.0, arguments=2**40)]
    refused = [row("gradients", False, None, temporaries=2**35), row("update", False, None, temporaries=2**35)]
    lines = [
        {"model": "t5-base", "topology": "v5e:4x4", "programs": fits},
        {"model": "t5-base", "topology": "h200:8", "programs": gpu},
        {"model": "t5-11b", "topology": "v5e:1x1", "programs": full},
        {"model": "t5-3b", "topology": "v5e:1x1", "programs": refused},
    ]
    assert format_table(lines).splitlines()[2:] == [
        "| t5-base | v5e:4x4 | fsdp:16 | 2.00 | 4.00 | yes | 0.50 | 0.79 | 4.0 |",
        "| t5-base | h200:8 | fsdp:16 | 2.00 | 4.00 | yes | 0.50 |  |  |",
        "| t5-11b | v5e:1x1 | fsdp:16 | 1024.00 | 1024.00 | no |  |  |  |",
        "| t5-3b | v5e:1x1 | fsdp:16 |  | 32.00 | no |  |  |  |",
    ]


@pytest.fixture
def compiled(monkeypatch):
    """Names of the jobs that were compiled."""
    jobs = []

    def compile_job(job):
        jobs.append(tuple(job.names.values()))
        sizes = {"arguments": 3 * 2**30, "temporaries": 2**30}
        return [row("gradients", True, 1.0, **sizes), row("update", True, 1.0)]

    monkeypatch.setattr(plan_jobs, "compile_job", compile_job)
    return jobs


def test_what_is_in_the_file_is_not_compiled_again(tmp_path, compiled):
    output = tmp_path / "plan.jsonl"
    argv = [f"--output={output}", "--models=t5-small,t5-base", "--topologies=v5e:1x1"]
    assert [call(plan_table.main, *argv).returncode for _ in range(2)] == [0, 0]
    assert compiled == [("t5-small", "v5e:1x1"), ("t5-base", "v5e:1x1")]
    assert len(output.read_text().splitlines()) == 2
    assert call(plan_table.main, *argv, "--config.model.remat=True").returncode == 0
    assert len(compiled) == 4
    done = call(plan_table.main, "--models=t5-huge", f"--output={output}")
    assert done.returncode == 2 and "unknown preset 't5-huge'" in done.stderr


def test_every_config_that_names_a_gpu_or_tpu_is_planned(tmp_path, compiled):
    done = call(plan_configs.main, f"--output={tmp_path / 'plan.jsonl'}")
    assert done.returncode == 0, done.stderr
    own = {name for name in names() if "one GPU or TPU host" in shipped_file(name).read_text()}
    assert {"samsum", "cnn_dailymail"} <= own and set(compiled) == {(n, t) for n in own for t in ("h200:1", "v6e:1x1")}
    assert "| samsum | v6e:1x1 | 2 | 4.00 | 24 | yes |" in done.stdout
    done = call(plan_configs.main, "--configs=quickstart")
    assert done.returncode == 2 and "--configs: quickstart names no GPU or TPU host" in done.stderr


def test_what_does_not_fit_or_compile_is_said():
    large = [row("update", True, 1.0, arguments=30 * 2**30)]
    lines = [{"config": "samsum", "topology": "h200:1", "programs": large}]
    assert plan_configs.format_rows(lines).endswith("| samsum | h200:1 | 1 | 30.00 | 24 | no |")
    refused = [row("update", False, None) | {"refused": "too large"}]
    lines = [{"config": "samsum", "topology": "h200:1", "programs": refused}]
    assert plan_configs.format_rows(lines).endswith("| no: prune: update does not compile |")


@pytest.mark.full
def test_fake_devices(tmp_path):
    flags = [f"--output={tmp_path / 'plan.jsonl'}", "--models=t5-small", "--topologies=cpu:4"]
    done = call(plan_table.main, *flags, "--config.prune.batch_size=4", "--config.prune.accumulation=1")
    assert done.returncode == 0, done.stderr
    [line] = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    assert [own["program"] for own in line["programs"]] == ["prune: gradients", "prune: update"]
    assert "| t5-small | cpu:4 | data:4 |" in done.stdout


@pytest.mark.full
def test_a_config_on_fake_devices(tmp_path):
    """All programs of a shipped config, compiled in a process of its own."""
    small = ["--config.model.init=", "--config.model.preset=t5-small", "--programs=generate"]
    done = call(
        plan_configs.main, f"--output={tmp_path / 'plan.jsonl'}", "--configs=glue", "--topologies=cpu:1", *small
    )
    assert done.returncode == 0, done.stderr
    assert "| glue | cpu:1 | 1 |" in done.stdout and done.stdout.strip().endswith("| 24 | yes |")


def test_a_plan_that_fails_is_told(tmp_path):
    flags = [f"--output={tmp_path / 'plan.jsonl'}", "--configs=glue", "--topologies=cpu:1", "--mesh=data:2"]
    done = call(plan_configs.main, *flags)
    assert done.returncode == 2 and "glue on cpu:1: error: " in done.stderr
    assert not (tmp_path / "plan.jsonl").exists()
