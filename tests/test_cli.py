"""The command line: quick answers, and one sentence for every kind of bad input before any work starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main

BAD_INPUT = {
    "foo=1": ["foo is not a setting"],
    "temprature=1": ["temprature is not a setting", "did you mean temperature"],
    "task.trainprompts=3": ["task.trainprompts", "did you mean task.train_prompts"],
    "+foo=1": ["foo is not a setting"],
    "+selection.foo=1": ["selection.foo is not a setting of top_per_prompt"],
    "selection=tpo": ["selection=tpo does not exist", "top_per_prompt", "distinct_correct"],
    "--foo": ["unrecognized arguments: --foo"],
    "num_completions": ["'num_completions'", "name=value"],
    "top_p=0": ["top_p=0", "above 0 and at most 1"],
    "top_p=1.01": ["top_p=1.01", "above 0 and at most 1"],
    "temperature=-1": ["temperature=-1", "at least 0"],
    "temperature=warm": ["temperature=warm", "a number"],
    "num_completions=0": ["num_completions=0", "whole number of at least 1"],
    "num_completions=2.5": ["num_completions=2.5", "whole number"],
    "num_completions=4,8": ["num_completions=4,8", "-m"],
    "seed=-1": ["seed=-1", "at least 0"],
    "seed=???": ["seed has no value"],
    "temperature=0": ["temperature=0 is greedy", "num_completions=16"],
    "evaluation.kl_completions=99": ["evaluation.kl_completions=99", "evaluation.num_completions=16"],
    "selection=top_k_overall selection.k=99999": ["selection.k=99999", "600 prompts x 16 completions = 9600"],
    "task.train_prompts=10000000": ["task.train_prompts=10000000"],
    "policy=folder": ["policy.path has no value"],
    "policy=folder policy.path=nowhere": ["policy.path=", "config.json"],
    "store=/dev/null/store": ["store=/dev/null/store can't be written"],
    "outputs=/dev/null/outputs": ["outputs=/dev/null/outputs can't be written"],
}


@pytest.mark.parametrize("arguments", BAD_INPUT)
def test_bad_input_is_one_sentence_and_does_no_work(arguments, monkeypatch, tmp_path: Path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    message = str(stopped.value.code)
    for part in BAD_INPUT[arguments]:
        assert part in message
    assert message.startswith("error: ")
    assert "\n" not in message
    assert capsys.readouterr().err == ""
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and ".locks" not in path.parts]
    assert [path.name for path in stored if path.name != "error.txt"] == []


def test_a_policy_folder_without_weights_is_refused(monkeypatch, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "policy=folder", "policy.path=empty"])
    with pytest.raises(SystemExit, match=r"error: policy.path=.*/empty holds no weights \(\*.safetensors\)"):
        main()


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_exit_status_and_no_traceback(tmp_path: Path):
    finished = run("top_p=0", cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.strip() == "error: top_p=0 is not allowed: it must be a number above 0 and at most 1."


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["-sc", "query=bash"]])
def test_answers_that_need_no_work_import_nothing_heavy(arguments, tmp_path: Path):
    heavy = ("torch", "transformers", "trl", "wandb", "lm_eval", "vllm", "matplotlib", "pyarrow", "datasets")
    script = (
        "import sys, atexit; sys.argv = ['bench', *sys.argv[1:]]\n"
        f"atexit.register(lambda: print('LOADED', [name for name in {heavy!r} if name in sys.modules]))\n"
        "from bench.__main__ import main; main()"
    )
    command = [sys.executable, "-c", script, *arguments]
    finished = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, env=completing("bench sel")
    )
    assert "LOADED []" in finished.stdout


def completing(line: str) -> dict[str, str]:
    """What a shell sets when it asks for the completion of `line`."""
    return {"COMP_LINE": line, "COMP_POINT": str(len(line)), "PATH": ""}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bench num_", "num_completions="),
        ("bench selection=", "selection=top_per_prompt"),
        ("bench task.", "task.seed="),
    ],
)
def test_completion_knows_settings_and_choices(line, offered, tmp_path: Path):
    command = [sys.executable, "-m", "bench", "-sc", "query=bash"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=completing(line))
    assert offered in finished.stdout.split()
