"""Analyses a slide on a SLURM cluster: `python slurm.py slide.svs results [--jobs 16] [--queue gpu]`.

Needs `pip install "napari-bloodcell[cluster]" dask-jobqueue` on the login node and on the compute nodes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dask_jobqueue import SLURMCluster

import napari_bloodcell as nb


def make_cluster(queue: str) -> SLURMCluster:
    """One worker a job, with one thread for tasks and four cores for the network."""
    return SLURMCluster(
        queue=queue,
        cores=1,
        processes=1,
        job_cpu=4,
        memory="8GB",
        walltime="08:00:00",
        job_script_prologue=["export OMP_NUM_THREADS=4"],
        # On a queue with GPUs: job_extra_directives=["--gres=gpu:1"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--queue", default="normal")
    parser.add_argument("--print-job", action="store_true", help="show the job's script and stop")
    arguments = parser.parse_args()
    with make_cluster(arguments.queue) as cluster:
        if arguments.print_job:
            print(cluster.job_script())
            return
        cluster.scale(jobs=arguments.jobs)
        result = nb.analyse(arguments.slide.resolve(), output=arguments.output, scheduler=cluster.scheduler_address)
    print(result.counts)


if __name__ == "__main__":
    main()
