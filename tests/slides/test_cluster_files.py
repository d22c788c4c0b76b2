"""The configurations for clusters that the guide shows ask for what the program takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from napari_bloodcell.cli import main as cli

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "cluster"


def test_a_slurm_job_starts_one_worker_with_one_thread_for_tasks() -> None:
    pytest.importorskip("dask_jobqueue")
    spec = importlib.util.spec_from_file_location("slurm_example", FOLDER / "slurm.py")
    assert spec is not None
    assert spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with example.make_cluster("gpu") as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tcp://")
    assert "#SBATCH -p gpu" in script
    assert "#SBATCH --cpus-per-task=4" in script
    assert "#SBATCH --mem=8G" in script
    assert "export OMP_NUM_THREADS=4" in script
    assert "distributed.cli.dask_worker" in script
    assert "--nthreads 1 " in script


def test_the_commands_for_kubernetes_are_commands_of_the_programs(capsys: pytest.CaptureFixture[str]) -> None:
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("distributed")
    things = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")))
    assert [thing["kind"] for thing in things] == ["Service", "Deployment", "Deployment", "Job"]
    service, scheduler, workers, job = things
    address = f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    pods = [thing["spec"]["template"]["spec"] for thing in (scheduler, workers, job)]
    commands = [pod["containers"][0]["command"] for pod in pods]
    assert service["spec"]["selector"] == scheduler["spec"]["template"]["metadata"]["labels"]
    for thing in (scheduler, workers):
        assert thing["spec"]["selector"]["matchLabels"] == thing["spec"]["template"]["metadata"]["labels"]
    for pod in pods[1:]:  # who reads the slide and who writes the result has the same volume at the same place
        assert pod["containers"][0]["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "slides"
    assert address in commands[1]
    _takes_options(commands[0])
    _takes_options(commands[1])
    assert commands[2][:2] == ["napari-bloodcell", "analyse"]
    assert commands[2][commands[2].index("--scheduler") + 1] == address
    assert cli.main(commands[2][1:]) == cli.WRONG_USE  # as it is, but for the slide
    assert "There is no image /data/slide.svs" in capsys.readouterr().err


def _takes_options(command: list[str]) -> None:
    """Let dask parse a command, and end before anything is started."""
    from click.testing import CliRunner
    from distributed.cli import dask_scheduler, dask_worker

    assert command[0] == "dask"
    program = {"scheduler": dask_scheduler, "worker": dask_worker}[command[1]].main
    answer = CliRunner().invoke(program, [*command[2:], "--version"])
    assert answer.exit_code == 0, answer.output
    with program.make_context(command[1], list(command[2:])) as context:
        assert context.params["dashboard"] is False
