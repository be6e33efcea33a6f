"""A committed report: rendered from its records by reference, small, whole without a store, and checked."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_runs import made_run

import bench
from bench import report
from bench.errors import BenchError
from bench.records import packed
from bench.records.environment import OF_TABLES, environment, in_words, note, read_noted
from bench.records.read import Run
from bench.reporting import published
from bench.reporting.contrasts import contrast, contrasts
from bench.reporting.exhibits import tables
from bench.reporting.groups import grouped, in_order
from bench.reporting.published import render
from bench.reporting.references import Book
from bench.reporting.words import wrapped

ARMS = ("tuned", "base")
UNKNOWN = {"newcomer.csv", "sizing.csv"}  # tables whose machine was not recorded, which reports/speed says
TEMPLATE = """{% set best = dict(N=4) %}
# A report

Tuned has {{ cell("main", "tuned", best) }} ({{ cell("main", "tuned", N=4) | percent | value }}), of {{ seeds }} seeds.
N = 8 against 4: {{ difference(dict(N=8), best, of="greedy") | signed }}; kept {{ metric("selection/kept", best) }}.

{% for row in rows("main") %}
| {{ row.num_completions }} | {{ row.tuned | interval }} |
{% endfor %}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Run]:
    outputs = tmp_path_factory.mktemp("outputs")
    return in_order(
        [
            made_run(outputs, seed=seed, num_completions=n, skill={"tuned": 0.5 + n / 100})
            for seed in (0, 1, 2)
            for n in (4, 8)
        ]
    )


@pytest.fixture(scope="module")
def made(runs: list[Run], tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "made"
    folder.mkdir()
    (folder / published.TEMPLATE).write_text(TEMPLATE)
    published.publish(runs, folder, title="made")
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in filter(Path.is_file, made.iterdir()):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_the_readme_has_the_numbers_of_the_tables(runs: list[Run], made: Path):
    groups = {group.settings["num_completions"]: group for group in grouped(runs)}
    tuned = groups["4"].mean("tuned", "pass", "accuracy", 1)
    sides = [groups[n].per_prompt("tuned", "greedy", "accuracy", 1) for n in ("8", "4")]
    difference = contrast(*sides, "by hand").difference
    text = (made / "README.md").read_text()
    assert f"Tuned has {tuned} ({100 * tuned.value:.0f} %), of 3 seeds." in text
    assert f"N = 8 against 4: {'+' if difference.value > 0 else ''}{difference}; kept 90." in text
    assert re.findall(r"^\| (\d) \| \[", text, re.MULTILINE) == ["8", "4"]  # best first


def test_a_difference_has_the_pooled_variance_of_its_family(tmp_path):
    """Between configurations, of each against theirs; within one, of the same two policies in each."""
    sizes = (4, 8, 16)
    runs = [
        made_run(tmp_path, seed=seed, num_completions=n, skill={"tuned": 0.5 + n / 100})
        for seed in (0, 1, 2)
        for n in sizes
    ]
    book = Book(runs)
    of = {int(group.settings["num_completions"]): group for group in book.groups}
    tuned, base = ({n: of[n].per_prompt(arm, "pass", "accuracy", 1) for n in sizes} for arm in ("tuned", "base"))
    for found, sides in (
        (book.difference({"N": 8}, {"N": 4}), {n: (tuned[n], tuned[4]) for n in (8, 16)}),
        (book.difference({"N": 8}, {"N": 8, "policy": "base"}), {n: (tuned[n], base[n]) for n in sizes}),
    ):
        pooled, alone = contrasts(sides)[8].difference, contrast(*sides[8], "alone").difference
        assert (found.low, found.high) == pytest.approx((pooled.low, pooled.high))
        assert (found.low, found.high) != pytest.approx((alone.low, alone.high))


def test_only_what_is_committed_is_written_and_it_is_small(made: Path):
    assert {path.name for path in made.iterdir()} == {"README.md", "README.md.j2", "report.json", packed.FILE}
    assert (made / packed.FILE).stat().st_size < 60_000
    assert json.loads((made / "report.json").read_text())["environment"] == ["python 3.12.1, torch 2.13.0"]
    assert published.check(made) == []


def test_tables_of_the_records_are_those_of_the_runs(runs: list[Run], made: Path):
    kept = in_order(list(bench.load(made)))
    assert [run.folder.name for run in kept] == [run.folder.name for run in runs]
    for then, now in zip(tables(runs), tables(kept), strict=True):
        assert [list(row) for row in then.rows] == [list(row) for row in now.rows]
        for old, new in zip(then.rows, now.rows, strict=True):
            for key, value in old.items():
                same = pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True) if isinstance(value, float) else value
                assert new[key] == same, (then.name, key)
        assert then.texts == now.texts


def test_values_per_prompt_take_less_space_and_keep_their_means():
    rng = np.random.default_rng(0)
    exact = {
        "kl": rng.gamma(0.5, size=300),
        "proxy": rng.normal(-40, 9, size=300),
        "share": rng.integers(0, 9, 300) / 8,
    }
    exact["kl"][::50], exact["share"][7] = np.nan, np.inf
    order = rng.permutation(900)
    points = np.repeat([*exact], 300)[order]
    kept = packed.coarse(np.concatenate([*exact.values()])[order], points.tolist())[np.argsort(order)].reshape(3, 300)
    ours = dict(zip(exact, kept, strict=True))
    assert ours["share"].tolist() == exact["share"].tolist()  # few distinct values, which stay exact
    for name, step in {"kl": 2**-8, "proxy": 2**-4}.items():  # the largest are below 8 and 128
        assert np.isnan(ours[name]).tolist() == np.isnan(exact[name]).tolist()
        assert 0.1 * step < np.nanmax(np.abs(ours[name] - exact[name])) <= step
        assert np.nanmean(ours[name]) == pytest.approx(np.nanmean(exact[name]), rel=1e-12)
        whole = ours[name] / step == np.round(ours[name] / step)
        assert whole.sum() >= np.isfinite(exact[name]).sum() - 1  # all but the last one


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ('cell("mian", "tuned")', "line 1: mian is no table or figure of these runs; .* did you mean main?"),
        ('cell("main", "tunned", N=4)', "main has no column tunned; there is .* did you mean tuned?"),
        ('cell("main", "tuned", N=5)', "main has no row with N=5; config.num_completions is 8, 4"),
        ('cell("main", "tuned")', "main has 2 rows with these settings; they differ in config.num_completions: 8, 4"),
        ('difference(dict(N=4), dict(N=8), of="greedi")', "of='greedi' is not allowed: .* did you mean greedy?"),
        ('difference(dict(N=4), dict(N=8, policy="round_9"))', "have no values of round_9 pass accuracy 1"),
        ('difference(dict(N=4), dict(N=8), of="at_0.5")', "have no values of tuned at_0.5 accuracy 1"),
        (
            'difference(dict(N=4), dict(N=8), of="pessimism_of_n@0.3@4")',
            "no values of tuned pessimism_of_n@0.3 accuracy 4",
        ),
        ('metric("selection/kep")', "metrics.json has no selection/kep; did you mean selection/kept?"),
        ('cell("main", "tuned", N=4) | valu', "No filter named 'valu'; did you mean value?"),
        ('cel("main")', "'cel' is undefined; did you mean cell?"),
        ('cell("main", "tuned", N=4) - cell("main", "tuned", N=8)', r"difference\(OURS, THEIRS\) has the interval too"),
        ('metric("tuned_vs_control/pass@1/verdict", N=4)', "could not convert string to float: 'better'"),
        ('report("nowhere").metric("selection/kept")', "there are no runs here to have selection/kept; report"),
        ('cell("main", "tuned", N=4) | per(0)', "float division by zero"),
    ],
)
def test_a_wrong_reference_is_one_sentence(reference: str, said: str, runs: list[Run], tmp_path: Path):
    (tmp_path / published.TEMPLATE).write_text(f"{{{{ {reference} }}}}\n")
    with pytest.raises(BenchError, match=said.replace("?", r"\?")) as refused:
        render(tmp_path / published.TEMPLATE, Book(runs))
    assert "\n" not in str(refused.value)
    assert f"{published.TEMPLATE}, line 1: " in str(refused.value)


def test_a_changed_number_record_or_environment_is_found(copied: Path):
    readme, manifest = copied / "README.md", copied / "report.json"
    right = readme.read_text()
    readme.write_text(right.replace("Tuned has 0.", "Tuned has 1."))
    (problem,) = published.check(copied)
    assert f"{readme}, line 3, says 'Tuned has 1." in problem
    readme.write_text(right)
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"environment": ["torch 9"]}))
    assert published.check(copied) == [f"{manifest} names another environment than the records of the runs"]
    manifest.write_text(json.dumps(content))
    other = made_run(copied.parent, seed=7)
    packed.pack([other], set(), copied / packed.FILE)
    assert f"{copied / packed.FILE} was changed since the report was made" in published.check(copied)
    (copied / packed.FILE).write_bytes(b"no archive")
    assert any("can't be unpacked" in problem for problem in published.check(copied))
    (copied / packed.FILE).unlink()
    assert any(f"{copied / packed.FILE} is missing: the report" in problem for problem in published.check(copied))


def test_an_edited_value_is_found_even_where_the_manifest_agrees(runs: list[Run], copied: Path):
    changed = [Run(run.folder, run.config, run.metrics | {"tuned/pass@1": 0.9}, run.curves) for run in runs]
    with pytest.raises(BenchError, match=r"where .* gives"):
        published.publish(changed, copied, title="made")


def test_the_command_makes_the_whole_report_from_the_records(copied: Path, monkeypatch, capsys, tmp_path: Path):
    template = copied / published.TEMPLATE
    template.write_text(template.read_text().replace("# A report", "# Another title"))
    assert "# Another title" in published.check(copied)[0]
    monkeypatch.setattr("sys.argv", ["report", str(copied)])
    report.main()
    assert (copied / "README.md").read_text().startswith("# Another title")
    monkeypatch.setattr("sys.argv", ["report", "--check", str(copied)])
    report.main()
    assert "up to date" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["report", str(copied), "style=talk"])
    with pytest.raises(SystemExit, match=r"figures\.yaml"):
        report.main()


def test_runs_of_different_code_are_refused(runs: list[Run], copied: Path, tmp_path: Path):
    other = made_run(tmp_path, seed=3, code="another")
    with pytest.raises(BenchError, match="different code"):
        published.publish([*runs, other], copied, title="made")


def test_a_readme_without_runs_has_its_numbers_from_csv_files(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "data.csv").write_text("of,n,share,share_low,share_high\nKL,8,0.25,0.1,0.4\nKL,16,,,\npass,8,1,1,1\n")
    template = tmp_path / published.TEMPLATE
    template.write_text('{{ cell("data", "share", of="KL", n=8) }}; {{ cell("data", "share", of="pass") | percent }}\n')
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    report.main()
    assert (tmp_path / "README.md").read_text() == "0.250 [0.100, 0.400]; 100 %\n"
    assert published.check(tmp_path) == []
    (tmp_path / "data.csv").write_text("of,n,share\nKL,8,0.3\npass,8,1\n")
    changed, other = published.check(tmp_path)
    assert changed == f"{tmp_path / 'data.csv'} was changed since the report was made"
    assert "where the template and the records give '0.300;" in other
    for reference, said in {
        'cell("dta", "share")': r"dta\.csv can't be read \(No such file or directory\); without runs, a",
        'cell("data", "shar", of="KL")': "data has no column shar; there is .* did you mean share?",
        'cell("data", "share", of="KLD")': "data has no row with of=KLD; of is KL, pass; did you mean KL?",
    }.items():
        template.write_text(f"{{{{ {reference} }}}}\n")
        with pytest.raises(SystemExit, match=said.replace("?", r"\?")):
            report.main()


def test_the_files_of_a_readme_without_runs_are_those_of_its_manifest(tmp_path: Path):
    """Its environments are those that made the tables."""
    (tmp_path / "data.csv").write_text("share\n0.25\n")
    (tmp_path / "other.csv").write_text("share\n0.5\n")
    note(tmp_path / "data.csv")
    (tmp_path / "bias.png").write_bytes(b"a figure")
    (tmp_path / published.TEMPLATE).write_text('{{ cell("data", "share") }}\n')
    published.publish_page(tmp_path)
    manifest = tmp_path / "report.json"
    content = json.loads(manifest.read_text())
    assert sorted(content["files"]) == ["bias.png", "data.csv", "environment.csv", "other.csv"]
    assert content["environment"] == ["not recorded", in_words(environment())]
    note(tmp_path / "other.csv")
    published.publish_page(tmp_path)
    content = json.loads(manifest.read_text())
    assert content["environment"] == [in_words(environment())]
    manifest.write_text(json.dumps(content | {"environment": ["an older one"]}))
    assert published.check(tmp_path) == [f"{manifest} names other environments than environment.csv"]
    published.publish_page(tmp_path)
    (tmp_path / "bias.png").unlink()
    (tmp_path / "width.png").write_bytes(b"another figure")
    missing, unknown = published.check(tmp_path)
    assert (missing, unknown) == (
        f"{tmp_path / 'bias.png'} is missing",
        f"{tmp_path / 'width.png'} is not in report.json",
    )
    published.publish_page(tmp_path)
    assert json.loads(manifest.read_text())["environment"] == content["environment"]
    for damaged in ("", "[]"):
        manifest.write_text(damaged)
        assert "report.json" in published.check(tmp_path)[0]
        published.publish_page(tmp_path)
        assert published.check(tmp_path) == []
    manifest.unlink()
    assert "report.json is missing" in published.check(tmp_path)[0]


def test_a_page_whose_files_are_gone_is_found_and_no_report_deletes_them(runs: list[Run], tmp_path: Path):
    (tmp_path / "bias.png").write_bytes(b"a figure")
    (tmp_path / published.TEMPLATE).write_text("A page.\n")
    published.publish_page(tmp_path)
    (tmp_path / "bias.png").unlink()
    assert published.check(tmp_path) == [f"{tmp_path / 'bias.png'} is missing"]
    published.publish_page(tmp_path)
    assert not (tmp_path / "report.json").exists()
    (tmp_path / "bias.png").write_bytes(b"a figure")
    published.publish_page(tmp_path)
    published.publish(runs, tmp_path, title="now of runs")
    assert (tmp_path / "bias.png").read_bytes() == b"a figure"


def test_a_number_over_seeds_is_its_least_and_its_most(tmp_path: Path):
    kept = {0: 91, 1: 88, 2: 90}
    book = Book([made_run(tmp_path, seed=seed, metrics={"selection/kept": n}) for seed, n in kept.items()])
    assert book.over_seeds("selection/kept") == "88 to 91"
    with pytest.raises(BenchError, match=r"no selection/kep; did you mean selection/kept\?"):
        book.over_seeds("selection/kep")


def test_degrees_of_freedom_are_those_of_the_differences_above(runs: list[Run], tmp_path: Path):
    """A difference of what does not vary has none, and none is of one seed."""
    book = Book(runs)
    with pytest.raises(BenchError, match="no difference above has degrees of freedom"):
        book.degrees()
    same = {"N": 8, "policy": "base"}
    book.difference(same, same)
    assert not book.freedom
    book.difference({"N": 8}, {"N": 4})
    assert re.fullmatch(r"\d+", book.degrees())


def test_all_committed_reports_are_of_one_code():
    """No module has one state in one report and another state in another."""
    states: dict[str, set[str]] = {}
    archives = sorted((Path(__file__).parent.parent / "reports").glob(f"*/{packed.FILE}"))
    assert len(archives) > 10
    for archive in archives:
        for folder in packed.run_folders(archive.parent):
            for module, state in json.loads((folder / "code.json").read_text()).items():
                states.setdefault(module, set()).add(state)
    assert len(states) > 50
    assert [module for module, found in states.items() if len(found) > 1] == []


def test_paragraphs_are_filled_and_tables_are_not():
    item = "- " + "word " * 40 + "0.5 [0.1,\n  0.9]"
    text = f"# {'title ' * 40}\n\n{item}\n| {'cell ' * 40} |\n"
    filled = wrapped(text).splitlines()
    assert filled[0] == f"# {'title ' * 40}"
    assert filled[-1] == f"| {'cell ' * 40} |"
    assert max(map(len, filled[2:-1])) <= 132
    assert wrapped("A.\n- one\n  two\n- three") == "A.\n- one two\n- three"


def test_the_findings_of_the_readme_are_those_of_the_decision_page():
    root = Path(__file__).parents[1]

    def rows(path: Path, prefix: str) -> dict[str, list[str]]:
        found = [line.strip("| ").split(" | ") for line in path.read_text().splitlines() if line.startswith("| [")]
        return {cells[0].replace(f"]({prefix}", "]("): cells[1:3] for cells in found}

    page = rows(root / "reports" / "README.md", "")
    assert (shown := rows(root / "README.md", "reports/"))
    assert {name: page.get(name) for name in shown} == shown


def test_the_readme_states_what_the_first_run_gives():
    """The run of seed 0 in reports/default, whose policy the package includes."""
    root = Path(__file__).parents[1]
    (first,) = (run for run in packed.read_packed(root / "reports" / "default") if run.config["seed"] == 0)
    ends = {arm: [first.metrics[f"{arm}/greedy_accuracy{end}"] for end in ("", "_low", "_high")] for arm in ARMS}
    written = {arm: f"{value:.3f} [{low:.3f}, {high:.3f}]" for arm, (value, low, high) in ends.items()}
    said = f"is {written['tuned']} for the fine-tuned policy and {written['base']} for the base."
    assert said in " ".join((root / "README.md").read_text().split())


def test_every_table_of_a_committed_report_has_its_environment():
    folders = [path.parent for path in (Path(__file__).parents[1] / "reports").glob("**/README.md.j2")]
    pages = [folder for folder in folders if published.is_page(folder)]
    tables = {path for page in pages for path in page.glob("*.csv") if path.name != OF_TABLES}
    assert len(tables) > 5
    noted = {path.name: read_noted(path.parent).get(path.name, "") for path in tables}
    assert {name for name, environment in noted.items() if not environment.startswith("python ")} == UNKNOWN
