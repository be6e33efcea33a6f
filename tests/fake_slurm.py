"""A Slurm of this machine's own for the tests: sbatch, srun, sacct, scontrol and scancel, whichever name this has.

Jobs are processes; $FAKE_SLURM holds each submitted script, `<job>.pid`, `<job>.ended` with the exit status, and
`<job>.requeue` from `scontrol requeue` until the job starts anew.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ["FAKE_SLURM"])


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    number = 100 + len(list(ROOT.glob("*.sh")))
    saved = ROOT / f"{number}.sh"
    saved.write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    for task in range(int(array[1]) + 1) if array else [None]:
        name = f"{number}" if task is None else f"{number}_{task}"
        own = {"SLURM_JOB_ID": name, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
        if task is not None:
            own |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
        loop = f"while :; do bash {saved}; s=$?; rm {name}.requeue 2>/dev/null || break; done; echo $s > {name}.end"
        loop += f"; mv {name}.end {name}.ended"  # sacct must not read half of it
        subprocess.Popen(
            ["bash", "-c", loop],
            cwd=ROOT,
            env=os.environ | own,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    print(f"Submitted batch job {number}")


def srun(*arguments: str) -> None:
    places = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID", "%t": "SLURM_PROCID"}
    rest = list(arguments)
    for option, descriptor in (("--output", 1), ("--error", 2)):
        at = rest.index(option)
        path = re.sub("%[Aajt]", lambda found: os.environ[places[found[0]]], rest[at + 1])
        del rest[at : at + 2]
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # submitit makes it later
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    rest.remove("--unbuffered")
    (ROOT / f"{os.environ['SLURM_JOB_ID']}.pid").write_text(str(os.getpid()))
    os.execvp(rest[0], rest)


def sacct(*_: str) -> None:
    print("JobID|State|NodeList")
    for ended in ROOT.glob("*.ended"):
        print(f"{ended.stem}|{'COMPLETED' if ended.read_text().strip() == '0' else 'FAILED'}|here")


def scontrol(verb: str, job: str) -> None:
    (ROOT / f"{job}.{verb}").write_text("")


def scancel(job: str) -> None:
    os.kill(int((ROOT / f"{job}.pid").read_text()), signal.SIGKILL)  # as Slurm does where SIGTERM ends no job


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name](*sys.argv[1:])
