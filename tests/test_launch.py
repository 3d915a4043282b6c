"""The launch files: they parse, name what exists, and start the command they should (with stand-ins)."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml
from commands import LIMIT

from nash_jax.config import command_line
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import default_config
from nash_jax.runtime import compilation, multihost, peers, sharding

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
SKYPILOT = sorted(LAUNCH.glob("skypilot/*.yaml"))
JOBSET, DOCKERFILE = LAUNCH / "jobset.yaml", LAUNCH / "Dockerfile"
TEXTS = [
    *SCRIPTS,
    *SKYPILOT,
    JOBSET,
    DOCKERFILE,
    LAUNCH / "README.md",
    ROOT / "docs" / "launch.md",
    ROOT / "CONTRIBUTING.md",
]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def bash(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def stand_in(tmp_path: Path):
    """`stand_in(program, script)` puts a program of that name before all others; returns the PATH to use."""

    def make(program: str, script: str) -> str:
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)
        return f"{path.parent}:{os.environ['PATH']}"

    return make


# -- they say what is true ------------------------------------------------------------------------------------


def test_all_launchers_are_here_and_in_the_readme():
    assert [p.name for p in SCRIPTS] == [
        "local.sh",
        "slurm.sbatch",
        "study_parallel.sh",
        "study_slurm.sbatch",
        "tpu_vm.sh",
    ]
    assert [p.name for p in SKYPILOT] == ["gpu.yaml", "study.yaml", "tpu_v5e.yaml", "tpu_v6e.yaml"]
    readme = (LAUNCH / "README.md").read_text()
    for path in (*SCRIPTS, *SKYPILOT, JOBSET, DOCKERFILE):
        assert f"({path.relative_to(LAUNCH)})" in readme


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_shell_scripts_parse(path):
    done = bash("-n", str(path))
    assert done.returncode == 0, done.stderr
    if path.suffix == ".sh":
        assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_what_is_named_exists(path):
    text = path.read_text()
    for config in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / config).is_file(), config
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (path.parent / link).exists(), link
    for test in re.findall(r"tests/\w+\.py", text):
        assert (ROOT / test).is_file(), test
    for name in set(re.findall(r"\bconfig\.(\w+\.\w+)", text)) - {"a.b"}:  # a.b stands for any setting
        group, field = name.split(".")
        assert field in default_config()[group], name


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_environment_variables_are_read_by_someone(path):
    jax_source = Path(jax.__file__).parent / "_src"
    ours = (Path(module.__file__) for module in (sharding, multihost, compilation, peers))
    known = "".join(p.read_text() for p in (*ours, jax_source / "distributed.py"))
    known += "".join(p.read_text() for p in (jax_source / "clusters").glob("*.py")) + "JAX_PLATFORMS NASH_JAX_SKYPILOT"
    for name in set(re.findall(r"\b(?:NASH_)?JAX_[A-Z_]+\b", path.read_text())):
        assert name in known


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_no_paths_of_someones_machine(path):
    assert not re.search(r"(?<![\w.~$}])/(?:home|root|Users|work|tmp|mnt)/", path.read_text())


# -- one machine ----------------------------------------------------------------------------------------------


def test_local_passes_arguments_on_and_the_exit_status_back():
    done = bash("launch/local.sh", "--config=configs/no such.py", PYTHON=sys.executable)
    assert done.returncode == 2
    assert "configs/no such.py" in done.stderr


# -- Slurm ----------------------------------------------------------------------------------------------------


def test_slurm_starts_one_process_a_node_with_all_its_devices(stand_in):
    path = stand_in("srun", 'echo "$JAX_LOCAL_DEVICE_IDS|$NASH_JAX_DISTRIBUTED|$*"')
    done = bash(
        "launch/slurm.sbatch", "--config=configs/samsum.py", "--workdir=a b",
        PATH=path, SLURM_GPUS_ON_NODE="4", SLURM_CPUS_PER_TASK="16", PYTHON="python",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    devices, distributed, command = done.stdout.strip().split("|")
    assert (devices, distributed) == ("0,1,2,3", "1")
    assert command.endswith("python -m nash_jax.main --config=configs/samsum.py --workdir=a b")
    assert "--kill-on-bad-exit=1" in command
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", (LAUNCH / "slurm.sbatch").read_text(), re.M))
    assert options["ntasks-per-node"] == "1"
    assert {"nodes", "gpus-per-node", "time", "requeue"} <= options.keys()


GRID = ("--config=configs/study.py:latency", "--workdir=a b")
PYTHON = """
case "$*" in *--list-cells) exec "$REAL" "$@" ;; esac
echo "$HOST|$PWD|$*"
"""


def test_slurm_gives_each_job_of_the_array_a_cell(stand_in):
    python = stand_in("python", PYTHON).partition(":")[0] + "/python"
    cells = re.findall("--cell=(.+)", bash("launch/local.sh", *GRID, "--list-cells", PYTHON=sys.executable).stdout)
    assert len(set(cells)) == len(cells) == 32
    for number in (1, len(cells)):
        done = bash(
            "launch/study_slurm.sbatch", *GRID, PYTHON=python, REAL=sys.executable, SLURM_ARRAY_TASK_ID=f"{number}"
        )
        assert done.stdout.strip().endswith(f"|-m nash_jax.main {' '.join(GRID)} --cell={cells[number - 1]}"), (
            done.stderr
        )
    done = bash("launch/study_slurm.sbatch", *GRID, PYTHON=sys.executable, SLURM_ARRAY_TASK_ID=f"{len(cells) + 1}")
    assert done.returncode == 2 and done.stderr == "the grid has no cell number 33\n"
    done = bash("launch/study_slurm.sbatch", "--config=none.py", PYTHON=sys.executable, SLURM_ARRAY_TASK_ID="1")
    assert done.returncode == 2 and "no file 'none.py'" in done.stderr


# -- GNU parallel ---------------------------------------------------------------------------------------------

# like sshd, which gives every login a SHELL: GNU parallel runs nothing, and says nothing, where there is none
SSH = """
while [[ "$1" == -* ]]; do shift; done
host=$1; shift 2  # and the --
cd / && HOST=$host SHELL=/bin/sh PATH=/usr/bin:/bin exec bash -c "$*"
"""


@pytest.mark.skipif(not shutil.which("parallel"), reason="GNU parallel is not installed: apt-get install parallel")
def test_parallel_gives_each_cell_to_one_host(stand_in):
    stand_in("python", PYTHON.replace("$REAL", sys.executable))
    path = stand_in("ssh", SSH)
    done = bash("launch/study_parallel.sh", *GRID, PATH=path, HOSTS="node1,node2", HOST="here")
    assert done.returncode == 0, done.stderr
    lines = sorted(re.split(r"[|\t]", line, maxsplit=3) for line in done.stdout.splitlines())
    assert len(lines) == len({name for name, *_ in lines}) == 32
    assert {host for _, host, *_ in lines} == {"node1", "node2"}
    for name, _, folder, command in lines:
        assert folder == str(ROOT) and command == f"-m nash_jax.main {' '.join(GRID)} --cell={name}"
    here = bash("launch/study_parallel.sh", *GRID, PATH=path, HOST="here").stdout.splitlines()
    assert {line.partition("\t")[2].partition("|")[0] for line in here} == {"here"} and len(here) == 32
    assert bash("launch/study_parallel.sh", "--config=none.py", PATH=path).returncode == 2


# -- SkyPilot -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SKYPILOT, ids=name_of)
def test_skypilot_files_have_what_a_task_needs(path):
    task = yaml.safe_load(path.read_text())
    fields = {"name", "num_nodes", "resources", "workdir", "envs", "file_mounts", "setup", "run"}
    assert task.keys() == fields  # all in SkyPilot's YAML reference
    allowed = {"infra", "accelerators", "accelerator_args", "use_spot", "job_recovery"}
    assert {"accelerators", "use_spot", "job_recovery"} <= task["resources"].keys() <= allowed
    assert task["file_mounts"] == {"/runs": {"name": "${BUCKET}", "store": "gcs", "mode": "MOUNT"}}
    for stage in ("setup", "run"):
        assert bash("-n", "-c", task[stage]).returncode == 0
        for name in re.findall(r"\$\{?([A-Z]+)\b(?!_)", task[stage]):
            assert name in {*task["envs"], "HOME", "PATH"}
    extras = re.search(r"'\.\[([\w,]+)\]'", task["setup"]).group(1).split(",")
    assert "train" in extras
    for extra in extras:
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


SKYPILOT_PYTHON = os.environ.get("NASH_JAX_SKYPILOT", "")
OTHER_DEVICES = ("gpu.yaml@H100:8", "gpu.yaml@A100:8@4", "tpu_v5e.yaml@tpu-v5litepod-8", "tpu_v6e.yaml@tpu-v6e-8")


@pytest.mark.skipif(
    not SKYPILOT_PYTHON, reason="set NASH_JAX_SKYPILOT to a Python with skypilot, in an environment of its own"
)
def test_skypilot_itself_reads_its_files(tmp_path):
    """As they are, and with the devices that its command would put in their place."""
    folder, names = LAUNCH / "skypilot", [*(path.name for path in SKYPILOT), *OTHER_DEVICES]
    done = subprocess.run(
        [SKYPILOT_PYTHON, ROOT / "tests" / "skypilot_tasks.py", *names], cwd=folder, capture_output=True, text=True,
        timeout=LIMIT, check=False, env=os.environ | {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in names:
        task, (file, *others) = found[name], name.split("@")
        own = yaml.safe_load((folder / file).read_text())
        device, _, count = (others[0] if others else own["resources"]["accelerators"]).partition(":")
        assert task["resources"]["accelerators"] == {device: int(count or 1)}
        assert task["resources"]["use_spot"] and task["resources"]["job_recovery"]["max_restarts_on_errors"] == 3
        assert task["nodes"] == int(others[1] if others[1:] else 1)
        mount = {"name": own["envs"]["BUCKET"], "store": "GCS", "mode": "MOUNT"}
        assert mount.items() <= task["mounts"]["/runs"].items() and task["envs"] == own["envs"]


def test_the_files_of_two_kinds_of_tpu_differ_in_names_alone():
    def read(own: str, other: str) -> str:
        text = (LAUNCH / "skypilot" / f"tpu_{own}.yaml").read_text()
        return text.replace("v5litepod", "v5e").replace("v5-lite", "v5e").replace(own, "OWN").replace(other, "OTHER")

    assert read("v5e", "v6e") == read("v6e", "v5e")


def sky_run(path: Path, folder: Path, **environment: str) -> str:
    """What the command of a SkyPilot file's `run` sees: its variables and arguments."""
    task = yaml.safe_load(path.read_text())
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/usr/bin/env bash\nenv | grep JAX_ | grep -v XLA | sort | tr "\\n" " "\necho "$@"\n')
    python.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if "JAX_" not in name}
    done = subprocess.run(
        ["bash", "-c", task["run"]], cwd=folder, env=clean | task["envs"] | environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_skypilot_gpu_tells_each_process_its_place(tmp_path):
    found = sky_run(
        LAUNCH / "skypilot" / "gpu.yaml", tmp_path,
        SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2", SKYPILOT_NUM_NODES="2", SKYPILOT_NODE_RANK="1", RUN="mine",
    )  # fmt: skip
    assert found == (
        "JAX_COORDINATOR_ADDRESS=10.0.0.1:12321 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 "
        "-m nash_jax.main --config=configs/samsum.py --workdir=/runs/mine"
    )


@pytest.mark.parametrize(("cell", "flag"), [("", ""), ("base-6-3", " --cell=base-6-3")])
def test_skypilot_study_runs_a_cell_or_all(tmp_path, cell, flag):
    path = LAUNCH / "skypilot" / "study.yaml"
    found = sky_run(path, tmp_path, CELL=cell, RUN="grid")
    assert found == f"-m nash_jax.main --config=configs/study.py:flan-t5 --workdir=/runs/grid{flag}"
    assert "--config.stages=data,finetune" in path.read_text()  # the teachers, before the cells


@pytest.mark.parametrize("kind", ["v5e", "v6e"])
def test_skypilot_tpu_lets_jax_find_the_slice_and_fits_the_batches(tmp_path, kind):
    path = LAUNCH / "skypilot" / f"tpu_{kind}.yaml"
    found = sky_run(path, tmp_path)
    assert found.startswith("NASH_JAX_DISTRIBUTED=1 -m nash_jax.main --config=configs/samsum.py ")
    chips = int(yaml.safe_load(path.read_text())["resources"]["accelerators"].rpartition("-")[2])
    given = dict(re.findall(r"--config\.(\w+)\.batch_size=(\d+)", found))
    for phase in ("finetune", "prune", "retrain"):
        assert int(given.get(phase, default_config()[phase].batch_size)) % chips == 0


# -- Kubernetes -----------------------------------------------------------------------------------------------


def test_jobset_starts_one_process_on_each_host_of_its_slice():
    """The fields are those of JobSet v1alpha2 and of Kubernetes' Job; its command is one that the program takes."""
    jobset = yaml.safe_load(JOBSET.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    [job] = jobset["spec"]["replicatedJobs"]
    spec, pod = job["template"]["spec"], job["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns / chips and job["replicas"] == 1
    assert spec["completionMode"] == "Indexed" and (spec["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert container["env"] == [{"name": "NASH_JAX_DISTRIBUTED", "value": "1"}]
    [mount], [volume] = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"] and volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    given = command_line.parse(["nash_jax.main", *container["args"]])
    assert given.workdir.startswith(mount["mountPath"])
    config = parse_config(given.config)
    assert all(getattr(config, phase).batch_size % (rows * columns) == 0 for phase in ("finetune", "prune", "retrain"))


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}


def fields(required: tuple[str, ...] = (), **properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def list_of(item: object) -> dict[str, object]:
    return {"type": "array", "items": item}


REASONS = ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"]
JOBSET_SCHEMA = fields(  # of JobSet v1alpha2, what a file here may need; a Job has Kubernetes' own schema
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=fields(("name",), name=TEXT, namespace=TEXT, labels={}, annotations={}),
    spec=fields(
        ("replicatedJobs",),
        suspend={"type": "boolean"},
        ttlSecondsAfterFinished=NUMBER,
        network=fields(enableDNSHostnames={"type": "boolean"}, subdomain=TEXT),
        coordinator=fields(("replicatedJob",), replicatedJob=TEXT, jobIndex=NUMBER, podIndex=NUMBER),
        successPolicy=fields(operator={"enum": ["All", "Any"]}, targetReplicatedJobs=list_of(TEXT)),
        failurePolicy=fields(
            maxRestarts=NUMBER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules=list_of(
                fields(
                    ("name", "action"),
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:-]*[A-Za-z0-9_])?$"},
                    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
                    targetReplicatedJobs=list_of(TEXT),
                    onJobFailureReasons=list_of({"enum": REASONS}),
                )
            ),
        ),
        replicatedJobs=list_of(fields(("name", "template"), name=TEXT, replicas=NUMBER, template={"type": "object"})),
    ),
)


def as_job(jobset: dict[str, Any]) -> dict[str, Any]:
    [job] = jobset["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}


def test_jobset_has_the_fields_of_its_schemas():
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    jsonschema = pytest.importorskip("jsonschema", reason="kubernetes-validate, which brings it, is not installed")
    jobset = yaml.safe_load(JOBSET.read_text())
    jsonschema.validate(jobset, JOBSET_SCHEMA)
    kubernetes_validate.validate(as_job(jobset), "1.34", strict=True)
    jobset["spec"]["failurePolicy"]["rules"][0]["action"] = "FailJob"
    with pytest.raises(jsonschema.ValidationError, match="'FailJob' is not one of"):
        jsonschema.validate(jobset, JOBSET_SCHEMA)
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["paralelism"] = 4
    with pytest.raises(kubernetes_validate.ValidationError, match="'paralelism' was unexpected"):
        kubernetes_validate.validate(as_job(jobset), "1.34", strict=True)


def test_jobset_starts_again_after_all_but_a_mistake():
    policy = yaml.safe_load(JOBSET.read_text())["spec"]
    [rule], [job] = policy["failurePolicy"]["rules"], policy["replicatedJobs"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    [own] = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert own == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    assert policy["failurePolicy"]["maxRestarts"] > 10


def test_the_container_has_what_it_copies_and_installs():
    parse = pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed")
    parsed = parse.DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes())).structure
    lines = [(line["instruction"], line["value"]) for line in parsed]
    instructions = [name for name, _ in lines if name != "COMMENT"]
    assert instructions == ["FROM", "ARG", "RUN", "WORKDIR", "COPY", "COPY", "COPY", "RUN", "ENTRYPOINT", "CMD"]
    copied = [name for instruction, value in lines if instruction == "COPY" for name in value.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    [extras] = re.findall(r"ARG EXTRAS=([\w,]+)", DOCKERFILE.read_text())
    for extra in extras.split(","):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    [entry] = re.findall(r"ENTRYPOINT (\[.*\])", DOCKERFILE.read_text())
    assert json.loads(entry) == ["python", "-m", "nash_jax.main"]
    [python] = re.findall(r"FROM python:3\.(\d+)-slim", DOCKERFILE.read_text())
    assert 11 <= int(python) <= 14


# -- TPU slice with gcloud ------------------------------------------------------------------------------------

GCLOUD = """
printf '%s\\n' "$*" >> "$CALLS"
case "$*" in *describe*)
  [ -e "$CALLS.asked" ] && echo "${STATE:-ACTIVE}" || echo PROVISIONING
  touch "$CALLS.asked" ;;
*scp*) cp "$5" "$CALLS.tar.gz" ;;
esac
"""


def tpu_vm(stand_in, tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """(exit status, what gcloud was told) of launch/tpu_vm.sh."""
    calls = tmp_path / "calls"
    path = stand_in("gcloud", GCLOUD)
    done = bash(
        "launch/tpu_vm.sh", *arguments,
        PATH=path, CALLS=str(calls), TPU="nash", ZONE="us-west4-a", POLL_SECONDS="0", **environment,
    )  # fmt: skip
    return done.returncode, calls.read_text() if calls.exists() else ""


def test_tpu_vm_waits_for_its_slice(stand_in, tmp_path):
    status, calls = tpu_vm(stand_in, tmp_path, "create", SPOT="1")
    assert status == 0
    create, *describes = calls.splitlines()
    assert create == (
        "compute tpus queued-resources create nash --node-id=nash --zone=us-west4-a "
        "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"
    )
    assert len(describes) == 2


def test_tpu_vm_gives_up_on_a_refused_slice(stand_in, tmp_path):
    assert tpu_vm(stand_in, tmp_path, "create", STATE="FAILED")[0] == 1


def test_tpu_vm_installs_on_all_hosts(stand_in, tmp_path):
    status, calls = tpu_vm(stand_in, tmp_path, "setup", MOUNT="echo mounted")
    assert status == 0
    copied, *installed = calls.splitlines()
    assert copied.startswith("compute tpus tpu-vm scp ") and copied.endswith("--worker=all")
    assert "--worker=all" in installed[0] and "'.[train,tpu]'" in calls and "echo mounted" in calls
    command = calls.partition("--command=")[2]
    assert bash("-n", "-c", command).returncode == 0


def test_what_tpu_vm_copies_can_be_installed(stand_in, tmp_path):
    """The archive alone: metadata are what an installation makes first, and needs all of setuptools' files for."""
    assert tpu_vm(stand_in, tmp_path, "setup")[0] == 0
    with tarfile.open(tmp_path / "calls.tar.gz") as archive:
        archive.extractall(tmp_path / "host", filter="data")
    make = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", make], cwd=tmp_path / "host", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nash_jax" in done.stdout.splitlines()[-1]


def test_tpu_vm_runs_the_command_on_all_hosts(stand_in, tmp_path):
    status, calls = tpu_vm(stand_in, tmp_path, "run", "--config=configs/samsum.py", "--workdir=/runs/a b")
    assert status == 0
    assert calls.strip() == (
        "compute tpus tpu-vm ssh nash --zone=us-west4-a --worker=all --command=cd nash_jax && NASH_JAX_DISTRIBUTED=1 "
        "exec .venv/bin/python -m nash_jax.main --config=configs/samsum.py --workdir=/runs/a\\ b"
    )


@pytest.mark.parametrize("arguments", [["run", "--config=configs/samsum.py"], ["walk"], []])
def test_tpu_vm_refuses_what_cannot_work(stand_in, tmp_path, arguments):
    assert tpu_vm(stand_in, tmp_path, *arguments) == (2, "")
