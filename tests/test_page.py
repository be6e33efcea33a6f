"""The page of a report, in a real browser: it says what the records say, runs nothing of them, and serves everyone."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browsing import CONTRASTS, Visit, launched

from bench.errors import BenchError
from bench.records.read import Run
from bench.reporting.exhibit import Figure, Table
from bench.reporting.page import inline_svg, write_page
from bench.reporting.page.samples import sample_columns

ATTACKS = [
    "</script><script>window.pwned = 1</script>",
    "<!--<script>",
    "<!--<script></script></script><script>window.pwned = 1</script>-->",
    '<img src="x" onerror="window.pwned = 1">',
    "\"'><svg onload=window.pwned=1>",
    "<iframe srcdoc='<script>parent.pwned = 1</script>'></iframe>",
    "</pre></div></textarea></style><script>window.pwned = 1</script>",
    "javascript:window.pwned=1",
    "&lt;b&gt; &amp; \u2028\u2029 \x00\x0b \u202e \\u003cscript\\u003e ${window.pwned = 1} $style $$",
    "]]><script>window.pwned = 1</script>",
    "\u202e\u2066 <script>window.pwned = 1</script> \x00\x1b[2J",
    f"{'<' * 40_000}</script><script>window.pwned = 1</script>",  # one line
]
HASH = re.compile("^#")


def a_run(folder: Path, samples: Sequence[dict[str, Any]], **config: Any) -> Run:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(samples)), folder / "samples.parquet")
    settings = {"seed": 0, "temperature": 1.0, "selection": {"_target_": "bench.selection.all_correct"}} | config
    return Run(folder, settings, {"code": "c0de"}, {})


def a_sample(**differences: Any) -> dict[str, Any]:
    return {
        "split": "train",
        "policy": "base",
        "prompt_id": "train-0",
        "prompt": "How many?",
        "answer": "4",
        "sample": 0,
        "completion": " 2 + 2 = 4. #### 4",
        "finish_reason": "stop",
        "length": 9,
        "reward": 1.0,
        "selected_for": "",
        "correct": True,
    } | differences


def drawn(folder: Path, name: str, **labels: str) -> Path:
    """A figure with text, a clipped curve, an image and hatches, as matplotlib writes it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    folder.mkdir(exist_ok=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(3.35, 2))
    left.plot([0, 1, 2], [0, 3, 1], marker="o", label="a < b & c")
    left.bar([0, 1], [1, 2], hatch="//")
    left.set(**labels)
    left.legend()
    right.imshow(np.arange(4.0).reshape(2, 2))
    for suffix in (".svg", ".pdf"):
        figure.savefig(folder / f"{name}{suffix}")
    pyplot.close(figure)
    return folder / f"{name}.svg"


def written(
    folder: Path, runs: Sequence[Run], figures: Sequence[Figure] = (), svg: Path | None = None, **parts: Any
) -> Path:
    """A page in `folder`; svg: the drawing of every figure."""
    tables = {f"tables/{table.name}": table for table in parts.pop("tables", [])}
    files = {name: [folder / f"{name}{end}" for end in (".csv", ".md", ".tex")] for name in tables}
    if svg is not None:
        files |= {f"figures/{figure.name}": [svg.with_suffix(".pdf"), svg] for figure in figures}
    exhibits = {f"figures/{figure.name}": figure for figure in figures} | tables
    parts = {"title": "a sweep", "verdicts": [], "methods": "We drew.", "references": "@a"} | parts
    return write_page(folder / "index.html", runs=runs, exhibits=exhibits, files=files, **parts)


ROWS = [
    {"method": "alpha", "value": 1200.0, "value_low": 1100.0, "value_high": 1300.0, "p_holm": 0.0001, "kl": -0.5},
    {"method": "beta", "value": 0.5, "value_low": 0.4, "value_high": 0.6, "p_holm": 0.25, "kl": None},
    {"method": "gamma", "value": 30.0, "value_low": 20.0, "value_high": 40.0, "p_holm": None, "kl": 0.25},
]
COLUMNS = {"method": "method", "value": "value", "p_holm": "p", "kl": "KL"}


def many_samples(count: int) -> list[dict[str, Any]]:
    """Completions whose rewards, lengths and texts differ; some not scored."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(count):
        a, b = random.integers(0, 30, 2).tolist()
        tuned = index % 5 == 4
        rows.append(
            a_sample(
                split="test" if tuned else "train",
                policy="tuned" if tuned else "base",
                prompt_id=f"prompt-{index % 40}",
                prompt=f"What is {index % 40} and some?",
                sample=index // 40,
                completion=f" {a} + {b} = {a + b}. Case İ {index % 7}. #### {a + b}",
                length=int(random.integers(5, 40)),
                reward=float("nan") if index % 11 == 0 else round(float(random.normal()), 3),
                correct=bool(random.integers(2)),
                selected_for=["", "tuned", "control", "tuned and control"][index % 4] if not tuned else "",
            )
        )
    return rows


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[dict[str, Any]]]]:
    """A page with all its parts on two runs of 10,000 completions, and those."""
    folder = tmp_path_factory.mktemp("report")
    samples = many_samples(20_000)
    halves = [samples[:10_000], samples[10_000:]]
    runs = [
        a_run(folder / "first", halves[0]),
        a_run(folder / "second", halves[1], selection={"_target_": "bench.selection.rso"}),
    ]
    svg = drawn(folder / "figures", "frontier", title="accuracy")
    figures = [Figure(name, "Accuracy against KL.", ROWS, runs, lambda _: None) for name in ("frontier", "frontier 2")]
    behind = [([runs[0]], "tuned"), ([runs[1]], ""), (runs, "control")]  # "control" has no completion of its own here
    tables = [Table("methods", "Every method.", ROWS, runs, COLUMNS, behind)]
    verdicts = ["all_correct against rso: better."]
    path = written(folder, runs, figures, svg, verdicts=verdicts, tables=tables)
    return path, halves


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def open_page(path: Path, **context: Any) -> Visit:
        visits.append(Visit(browser, path, **context))
        return visits[-1]

    yield open_page
    for one in visits:
        one.close()


def count(page: Any) -> int:
    return int(page.locator("#count").text_content().split(" of ")[0].replace(",", ""))


def set_to(page: Any, **values: str) -> None:
    """Each field of the filters by its id, with "_" for "-"; a select by the text of its option."""
    for name, value in values.items():
        field = page.locator(f"#{name.replace('_', '-')}")
        if name == "search":
            field.fill(value)
        else:
            field.select_option(label=value)


def all_shown(page: Any) -> list[str]:
    """Every completion listed, read by walking down the list with the keyboard."""
    return page.evaluate("""() => {
      const list = document.getElementById("list");
      const press = (key) => list.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
      const found = [];
      press("Home");
      for (;;) {
        found.push(document.getElementById("detail-completion").textContent);
        const before = list.getAttribute("aria-activedescendant");
        press("ArrowDown");
        if (list.getAttribute("aria-activedescendant") === before) return found;
      }
    }""")


@pytest.mark.browser
def test_it_loads_alone_and_without_a_complaint(report, visit):
    path, _ = report
    opened = visit(path)
    assert opened.requests == [path.as_uri()]
    assert opened.complaints == []
    assert count(opened.page) == 20_000
    sections = opened.page.locator("h2").all_text_contents()
    assert sections == ["Verdicts", "Figures", "Tables", "Methods", "Runs", "Samples"]
    assert opened.page.locator(".verdicts li").all_text_contents() == ["all_correct against rso: better."]


@pytest.mark.browser
def test_filters_find_what_a_loop_over_the_records_finds(report, visit):
    path, halves = report
    page = visit(path).page
    everything = [(run, row) for run, half in enumerate(halves) for row in half]
    cases: list[tuple[dict[str, str], Callable[[int, dict[str, Any]], bool]]] = [
        ({"search": "= 17."}, lambda _, row: "= 17." in row["completion"]),
        ({"search": "case"}, lambda _, row: "case" in row["completion"].lower()),
        ({"search": "What is 7 "}, lambda _, row: "What is 7 " in row["prompt"]),
        ({"by_policy": "tuned"}, lambda _, row: row["policy"] == "tuned"),
        ({"by_split": "train"}, lambda _, row: row["split"] == "train"),
        ({"by_correct": "correct"}, lambda _, row: row["correct"]),
        ({"by_correct": "wrong"}, lambda _, row: not row["correct"]),
        ({"by_chosen": "not selected"}, lambda _, row: row["selected_for"] == ""),
        ({"by_chosen": "selected for any"}, lambda _, row: row["selected_for"] != ""),
        ({"by_chosen": "tuned and random control"}, lambda _, row: row["selected_for"] == "tuned and control"),
        ({"by_run": "selection=rso seed=0 second"}, lambda run, _: run == 1),
        ({"by_prompt": "prompt-3: What is 3 and some?"}, lambda _, row: row["prompt_id"] == "prompt-3"),
        (
            {
                "search": "+ 4 =",
                "by_correct": "wrong",
                "by_policy": "base",
                "by_prompt": "prompt-5: What is 5 and some?",
            },
            lambda _, row: (
                "+ 4 =" in row["completion"]
                and not row["correct"]
                and row["policy"] == "base"
                and row["prompt_id"] == "prompt-5"
            ),
        ),
        ({"search": "nowhere to be found"}, lambda *_: False),
    ]
    for fields, passes in cases:
        page.get_by_role("button", name="Show all").click()
        page.get_by_text("20,000 of 20,000 completions").wait_for()
        set_to(page, **fields)
        found = [row for run, row in everything if passes(run, row)]
        assert count(page) == len(found), fields
        if found and len(found) < 100:
            assert all_shown(page) == [row["completion"] for row in found]
    assert "No completion passes" in page.locator("#detail").text_content()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("label", "column", "sign"),
    [
        ("highest reward first", "reward", -1),
        ("lowest reward first", "reward", 1),
        ("longest first", "length", -1),
        ("shortest first", "length", 1),
    ],
)
def test_orders_hold_from_end_to_end_and_the_unscored_come_last(report, visit, label, column, sign):
    path, halves = report
    page = visit(path).page
    rows = [row for row in halves[1] if row["prompt_id"] == "prompt-22" and row["correct"]]
    set_to(page, order=label, by_prompt="prompt-22: What is 22 and some?", by_correct="correct")
    set_to(page, by_run="selection=rso seed=0 second")
    keyed = [(np.isnan(row[column]), 0 if np.isnan(row[column]) else sign * row[column], row) for row in rows]
    expected = [row["completion"] for *_, row in sorted(keyed, key=lambda entry: entry[:2])]
    assert len(expected) > 100
    assert sum(np.isnan(row["reward"]) for row in rows) > 5
    assert all_shown(page) == expected


@pytest.mark.browser
def test_twenty_thousand_completions_stay_few_elements_wherever_one_is(report, visit, record_property):
    """Latencies are reported, not judged: `pytest -m browser -s tests/test_page.py`."""
    path, halves = report
    opened = visit(path)
    page = opened.page
    page.locator("#list").focus()
    page.keyboard.press("End")
    assert page.locator("#detail-completion").text_content() == halves[1][-1]["completion"]
    assert page.locator(".sample").count() < 60
    page.evaluate("document.getElementById('list').scrollTop = document.getElementById('extent').clientHeight / 2")
    page.locator("#sample-10000").wait_for()
    assert page.locator(".sample").count() < 60
    middle = page.locator("[id^=sample-]").nth(10)
    position = int(middle.get_attribute("id").split("-")[1])
    row = (halves[0] + halves[1])[position]
    assert middle.locator(".text").text_content().strip() == row["completion"].strip()
    latencies = page.evaluate("""async () => {
      const found = {};
      const acts = [["search", "1"], ["search", "1 +"], ["search", "zzz"], ["search", ""], ["by-correct", "2"],
                    ["order", "reward down"], ["order", "length up"], ["by-correct", ""]];
      for (const [id, value] of acts) {
        const start = performance.now();
        const field = document.getElementById(id);
        field.value = value;
        field.dispatchEvent(new Event("input", { bubbles: true }));
        const script = performance.now() - start;
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        found[`${id}=${value}`] = [script, performance.now() - start].map((ms) => Math.round(ms * 10) / 10);
      }
      return found;
    }""")
    record_property("milliseconds of script, and to the next frame", json.dumps(latencies))
    print(f"\n20,000 completions, ms of script and to the next frame: {latencies}")
    assert opened.complaints == []


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose every text is an attack."""
    folder = tmp_path_factory.mktemp("attacked")
    samples = [
        a_sample(completion=text, prompt=f"{text}?", prompt_id=f"{i} {text}", answer=text, policy=text, split=text)
        | {"selected_for": text, "finish_reason": text}
        for i, text in enumerate(ATTACKS)
    ]
    runs = [
        a_run(folder / "one", samples, selection={"_target_": "bench.selection.rso", "note": ATTACKS[0]}),
        a_run(folder / "two", samples, selection={"_target_": ATTACKS[0], "note": ATTACKS[3]}, same="\n".join(ATTACKS)),
    ]
    runs[0].config["same"] = runs[1].config["same"]
    name = ATTACKS[3].replace("/", "")
    svg = drawn(folder / "figures", "figure", title=ATTACKS[0], xlabel=ATTACKS[3])
    rows = [{"<b>": text, "value": 1.0} for text in ATTACKS]
    return written(
        folder,
        runs,
        [Figure(name, ATTACKS[0], rows, runs, lambda _: None)],
        svg,
        title=ATTACKS[0],
        verdicts=ATTACKS,
        methods="\n".join(ATTACKS),
        references="\n".join(ATTACKS),
        tables=[Table(name, ATTACKS[2], rows, runs, {"<b>": ATTACKS[3], "value": ATTACKS[0]})],
    )


@pytest.mark.browser
def test_completions_that_are_html_or_scripts_are_shown_as_text(attacked, visit):
    opened = visit(attacked)
    page = opened.page
    page.locator("#list").focus()
    for text in ATTACKS:
        assert page.locator("#detail-completion").text_content() == text
        assert page.locator("#detail-prompt").text_content() == f"{text}?"
        page.keyboard.press("ArrowDown")
    for text in ATTACKS:
        page.fill("#search", text[:12])
        assert count(page) >= 2  # once in each run, marked where it was found
        assert page.locator("#detail-completion mark").first.text_content() == text[:12]
    assert page.title() == ATTACKS[0]
    assert page.locator(".verdicts li").all_text_contents()[:5] == ATTACKS[:5]
    assert page.evaluate("window.pwned") is None
    assert page.locator("script").count() == 2
    assert page.locator("img, iframe, textarea, [onerror], [onload], [srcdoc]").count() == 0
    assert opened.complaints == []
    assert opened.requests == [attacked.as_uri()]


@pytest.mark.browser
def test_what_got_in_all_the_same_could_neither_run_nor_load(report, visit):
    opened = visit(report[0])
    blocked = opened.page.evaluate("""async () => {
      const blocked = [];
      document.addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
      const script = document.createElement("script");
      script.textContent = "window.pwned = 1";
      document.body.append(script);
      const box = document.createElement("div");
      document.body.append(box);
      box.innerHTML = "<img src=x onerror='window.pwned = 1'><img src='https://example.org/a.png'><style>*{color:red}</style>";
      await fetch("https://example.org/").catch(() => {});
      await new Promise((done) => setTimeout(done, 100));
      return [window.pwned ?? null, [...new Set(blocked)].sort()];
    }""")
    assert blocked == [None, ["connect-src", "img-src", "script-src-attr", "script-src-elem", "style-src-elem"]]
    assert {reason for url, reason in opened.failures if "example.org" in url} == {"csp"}


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(report, visit, scheme):
    page = visit(report[0], color_scheme=scheme).page
    page.fill("#search", "= 2")  # marks, in the chosen completion and elsewhere
    page.locator(".sample").nth(1).hover()
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert any("MARK" in what for _, what, _ in found)
    assert [entry for entry in found if entry[0] < 4.5] == []
    ring = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--accent').trim()")
    paper = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()")
    assert contrast(ring, paper) >= 3  # what shows the focus


def contrast(one: str, other: str) -> float:
    """Of two #rrggbb colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_black_on_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.browser
def test_the_keyboard_reaches_everything_in_its_order_and_shows_where_it_is(report, visit):
    page = visit(report[0]).page
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        here = page.evaluate("""() => {
          const all = [...document.querySelectorAll("*")];
          const here = document.activeElement;
          const style = getComputedStyle(here);
          return [all.indexOf(here), here.id || here.textContent.trim().slice(0, 20), style.outlineStyle, here.tagName];
        }""")
        if here[3] == "BODY" or (seen and here[0] <= seen[-1][0]):
            break
        seen.append(here)
    names = [name for _, name, *_ in seen]
    assert names[:3] == ["Skip to the content", "Verdicts", "Figures"]
    fields = ["search", "by-run", "by-prompt", "by-policy", "by-split", "by-flip", "by-correct", "by-chosen", "order"]
    assert names[-12:] == [*fields, "Show all", "list", "detail"]
    assert {"method", "value", "CSV", "Markdown", "LaTeX", "PDF", "SVG"} <= {
        re.sub(r"\W+$", "", name) for name in names
    }
    assert all(outline != "none" for _, _, outline, _ in seen)


@pytest.mark.browser
def test_a_screen_reader_has_names_roles_and_positions(report, visit):
    page = visit(report[0]).page
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((node) => Number(node.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("banner", "main"):
        assert page.get_by_role(landmark).count() == 1
    for role, name in (
        ("navigation", "Sections"),
        ("search", "Samples"),
        ("img", "Accuracy against KL."),
        ("table", "Every method."),
        ("listbox", "Completions"),
        ("region", "The chosen completion"),
        ("searchbox", "Search in prompts and completions"),
        ("combobox", "Correctness"),
        ("combobox", "Order"),
        ("button", "Show all"),
    ):
        assert page.get_by_role(role, name=name, exact=True).count() >= 1, (role, name)
    unnamed = page.evaluate("""() => [...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")]
      .filter((node) => !(node.labels?.length || node.textContent.trim() || node.ariaLabel))
      .filter((node) => !node.ariaLabelledByElements?.length)
      .map((node) => node.outerHTML.slice(0, 80))""")
    assert unnamed == []
    page.get_by_label("Search in prompts and completions").fill("= 1")
    assert page.get_by_role("status").text_content() == f"{count(page):,} of 20,000 completions"
    page.locator("#list").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("PageDown")
    page.keyboard.press("ArrowUp")
    active = page.locator(f"#{page.locator('#list').get_attribute('aria-activedescendant')}")
    assert active.get_attribute("role") == "option"
    assert active.get_attribute("aria-selected") == "true"
    assert page.locator("[aria-selected=true]").count() == 1
    assert int(active.get_attribute("aria-posinset")) > 4
    assert int(active.get_attribute("aria-setsize")) == count(page)
    page.evaluate("document.getElementById('list').scrollTop = 0")  # out of sight, it is still what the list refers to
    page.locator("#sample-0").wait_for()
    assert active.count() == 1


@pytest.mark.browser
def test_a_header_sorts_by_value_up_and_down_and_back(report, visit):
    page = visit(report[0]).page
    table = page.get_by_role("table", name="Every method.")

    def methods() -> list[str]:
        return table.locator("tbody td:first-child").all_text_contents()

    def press(name: str) -> str | None:
        table.get_by_role("button", name=name, exact=True).focus()
        page.keyboard.press("Enter")
        return table.get_by_role("columnheader", name=name, exact=True).get_attribute("aria-sort")

    assert methods() == ["alpha", "beta", "gamma"]
    assert (press("value"), methods()) == ("ascending", ["beta", "gamma", "alpha"])
    assert (press("value"), methods()) == ("descending", ["alpha", "gamma", "beta"])
    assert (press("value"), methods()) == (None, ["alpha", "beta", "gamma"])
    assert (press("KL"), methods()) == ("ascending", ["alpha", "gamma", "beta"])  # none comes last,
    assert (press("KL"), methods()) == ("descending", ["gamma", "alpha", "beta"])  # either way
    assert (press("method"), methods()) == ("ascending", ["alpha", "beta", "gamma"])
    assert (press("method"), methods()) == ("descending", ["gamma", "beta", "alpha"])
    assert table.locator("[aria-sort]").count() == 1


@pytest.mark.browser
def test_it_fits_a_phone_and_prints(report, visit):
    page = visit(report[0], viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True).page
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator(".sample").nth(1).tap()
    assert page.locator("[aria-selected=true]").get_attribute("id") == "sample-1"
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav").is_visible()
    assert not page.locator("#browser").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    clipped = page.evaluate(
        "[...document.querySelectorAll('.scroll')].some((box) => getComputedStyle(box).overflow !== 'visible')"
    )
    assert not clipped


@pytest.mark.browser
def test_drawings_keep_their_parts_apart_and_show(report, visit):
    """Two figures come from one file: each has its own clip paths, glyphs and hatches, and refers to those alone."""
    page = visit(report[0]).page
    assert page.locator("figure svg").count() == 2
    references = page.evaluate("""() => [...document.querySelectorAll("figure")].map((figure) => {
      const markup = figure.querySelector("svg").outerHTML;
      const ids = [...markup.matchAll(/url\\(#([^)"]+)\\)|href="#([^"]+)"/g)].map((hit) => hit[1] ?? hit[2]);
      return [ids.length, ids.every((id) => figure.querySelector("svg").contains(document.getElementById(id)))];
    })""")
    assert all(many > 10 and own for many, own in references)
    assert page.evaluate("document.querySelectorAll('figure style, figure metadata').length") == 0
    box = page.locator("figure svg").first.bounding_box()
    assert box["width"] > 300
    assert box["height"] > 150


ARMS = ("base", "tuned", "control")
RIGHT = {"won": (False, True, False), "lost": (True, False, True), "same": (True, True, True)}


def flipped_samples() -> list[dict[str, Any]]:
    """Three held-out prompts with a completion of each policy, and a training prompt with four samples."""
    held_out = [
        a_sample(split="test", policy=arm, prompt_id=name, prompt=f"{name}?", completion=f"{arm} {name}", correct=right)
        for name, verdicts in RIGHT.items()
        for arm, right in zip(ARMS, verdicts, strict=True)
    ]
    chosen = ["", "tuned", "control", ""]
    return held_out + [
        a_sample(sample=i, completion=f"sample {i}", selected_for=arm, correct=i == 1) for i, arm in enumerate(chosen)
    ]


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations, one under two seeds."""
    folder = tmp_path_factory.mktemp("flipped")
    rso = {"_target_": "bench.selection.rso"}
    runs = [
        a_run(folder / "a", flipped_samples()),
        a_run(folder / "b", flipped_samples(), seed=1),
        a_run(folder / "c", flipped_samples(), selection=rso),
    ]
    rows = [{"selection": "all_correct", "seeds": 2}, {"selection": "rso", "seeds": 1}]
    behind = [(runs[:2], "tuned"), (runs[2:], "")]
    table = Table("main", "Both.", rows, runs, {"selection": "selection", "seeds": "seeds"}, behind)
    return written(folder, runs, tables=[table])


def cards(page: Any) -> list[str]:
    return page.locator(".card pre").all_text_contents()


@pytest.mark.browser
def test_prompts_that_flipped_are_found_and_stand_side_by_side_by_policy(flipped, visit):
    page = visit(flipped).page
    options = page.locator("#by-flip option").all_text_contents()
    won = ["base wrong, tuned correct", "random control wrong, tuned correct"]
    assert options == ["any", *won, "base correct, tuned wrong", "random control correct, tuned wrong"]
    for option in options[1:]:
        name = "won" if option in won else "lost"
        set_to(page, by_flip=option, by_run="selection=rso seed=0 c")
        assert all_shown(page) == [f"{arm} {name}" for arm in ARMS]
        assert cards(page) == [f"{arm} {name}" for arm in ARMS]
        assert page.locator(".card h4").all_text_contents() == ["base", "tuned", "random control"]
        assert page.locator("[aria-current]").count() == 1
        assert option in page.locator("#detail dl").text_content()
    set_to(page, by_flip="any", search="sample 3")  # of a training prompt: beside it, what was selected
    assert cards(page) == ["sample 3", "sample 1", "sample 2"]
    assert page.locator(".card h4").first.text_content() == "base, sample 3"
    assert "selected for random control" in page.locator(".card .facts").nth(2).text_content()


def test_the_link_of_a_row_is_its_first_text(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "a", [a_sample()])]
    rows = [{"N": "", "policy": "base"}, {"N": "2", "policy": "tuned"}]
    table = Table("both", "Both.", rows, runs, {"N": "N", "policy": "policy"}, [(runs, "base"), (runs, "tuned")])
    links = re.findall("<a [^>]*data-policy[^>]*>([^<]*)</a>", written(tmp_path, runs, tables=[table]).read_text())
    assert links[:2] == ["base", "2"]


@pytest.mark.browser
def test_a_row_of_a_table_leads_to_its_completions(flipped, visit):
    page = visit(flipped).page
    set_to(page, search="nothing like this")
    table = page.get_by_role("table", name="Both.")
    table.get_by_role("link", name="all_correct").click()
    page.get_by_text("6 of 39 completions").wait_for()  # three prompts, two seeds
    assert page.evaluate("document.activeElement.id") == "list"
    assert page.locator("#by-run option:checked").text_content() == "selection=all_correct (2 runs)"
    assert all_shown(page) == ["tuned won", "tuned lost", "tuned same"] * 2
    table.get_by_role("link", name="rso").click()
    page.get_by_text("13 of 39 completions").wait_for()
    page.get_by_role("link", name="b", exact=True).click()  # the table of runs
    page.get_by_text("13 of 39 completions").wait_for()
    assert page.locator("#by-run option:checked").text_content() == "selection=all_correct seed=1 b"


@pytest.mark.browser
def test_letters_move_through_the_list_and_a_slash_searches(flipped, visit):
    page = visit(flipped).page
    page.keyboard.press("j")  # outside of the browser a letter does nothing
    assert page.locator("[aria-selected=true]").get_attribute("id") == "sample-0"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("j/k")
    assert page.locator("#search").input_value() == "j/k"
    page.fill("#search", "")
    for pane in ("list", "detail"):
        page.locator(f"#{pane}").focus()
        for key, expected in (("j", 1), ("j", 2), ("k", 1), ("Control+j", 1), ("k", 0), ("k", 0)):
            page.keyboard.press(key)
            assert page.locator("[aria-selected=true]").get_attribute("id") == f"sample-{expected}"


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
def test_the_browser_of_samples_fits_a_narrow_and_a_wide_window(flipped, visit, width):
    page = visit(flipped, viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    set_to(page, search="tuned won")
    boxes = page.evaluate(
        "[...document.querySelectorAll('.card')].map((card) => card.getBoundingClientRect().toJSON())"
    )
    assert all(box["left"] >= 0 and box["right"] <= width for box in boxes)
    assert len({round(box["top"]) for box in boxes}) == (
        1 if width == 1280 else 3
    )  # side by side, or one below another


def test_two_thousand_long_samples_stay_below_five_megabytes(tmp_path):
    """Their beginnings and ends are kept, and the page says what it leaves out."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghij <>&'\u00e9"))
    texts = ["".join(random.choice(letters, 6_000)) for _ in range(2_000)]
    path = written(tmp_path, [a_run(tmp_path / "run", [a_sample(completion=text) for text in texts])])
    assert path.stat().st_size < 5e6
    columns = sample_columns([a_run(tmp_path / "again", [a_sample(completion=text) for text in texts])])
    longest = columns["longest"]
    assert 500 < longest < 6_000
    for text, shown in zip(texts, columns["texts"], strict=True):
        assert shown.startswith(text[: longest // 2])
        assert shown.endswith(text[-(longest // 2) :])
        assert f"[{6_000 - longest:,} characters are left out here]" in shown
    assert f"more than {longest:,} characters" in path.read_text()
    few = sample_columns([a_run(tmp_path / "few", [a_sample(completion=text) for text in texts[:100]])])
    assert few["texts"] == texts[:100]
    assert few["longest"] is None


class _Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_nothing_on_the_page_points_away(attacked):
    elements = _Elements(attacked.read_text()).seen
    assert [tag for tag, _ in elements].count("script") == 2
    addresses = [value for _, attributes in elements for name, value in attributes.items() if name in ("href", "src")]
    assert len(addresses) > 5
    for address in (one for one in addresses if not HASH.match(one) and not one.startswith("data:")):
        where = urlsplit(address)
        assert not where.scheme
        assert not where.netloc
        assert where.path.split("/")[0] in ("figures", "tables")
        assert ".." not in unquote(where.path)
    assert not any(name.startswith("on") for _, attributes in elements for name in attributes)


def test_the_data_survive_their_script_element(attacked):
    page = attacked.read_text()
    start = page.index('id="data">') + len('id="data">')
    data = page[start : page.index("</script>", start)]
    assert not set("<>&") & set(data)
    found = json.loads(data)
    assert found["texts"] == ATTACKS
    assert [prompt[0] for prompt in found["prompts"]] == [f"{i} {text}" for i, text in enumerate(ATTACKS)]


def test_equal_records_give_equal_bytes_and_no_place_of_this_machine(report, tmp_path):
    _, halves = report
    runs = [
        a_run(tmp_path / "elsewhere" / "one", halves[0][:50], store=str(tmp_path)),
        a_run(tmp_path / "elsewhere" / "two", halves[1][:50], store=str(tmp_path), seed=1),
    ]
    first = written(tmp_path, runs).read_bytes()
    (tmp_path / "again").mkdir()
    assert written(tmp_path / "again", runs).read_bytes() == first
    assert str(tmp_path).encode() not in first
    assert b"they differ in no setting but the seed" in first


def test_runs_share_texts_and_missing_verdicts_are_unknown(tmp_path):
    old = a_sample(completion="b", reward=None)
    del old["correct"]
    new = [a_sample(completion="a", reward=1 / 3), a_sample(completion="b", reward=float("nan"), correct=False)]
    columns = sample_columns([a_run(tmp_path / "new", new), a_run(tmp_path / "old", [old], seed=3)])
    assert columns["texts"] == ["a", "b"]
    assert columns["text"] == [0, 1, 1]
    assert columns["run"] == [0, 0, 1]
    assert columns["runs"] == ["seed=0 new", "seed=3 old"]
    assert columns["correct"] == [1, 0, -1]
    assert columns["reward"] == [0.333333, None, None]
    assert columns["prompts"] == [("train-0", "How many?", "4")]


def test_settings_that_all_share_are_told_apart_from_those_that_differ(tmp_path):
    runs = [
        a_run(tmp_path / "a", [a_sample()], training={"epochs": 3, "learning_rate": 0.001}),
        a_run(tmp_path / "b", [a_sample()], training={"epochs": 3, "learning_rate": 0.01}),
    ]
    page = written(tmp_path, runs).read_text()
    runs_part = page[page.index('id="runs"') : page.index('id="samples"')]
    assert "<th" in runs_part
    assert "training.learning_rate" in runs_part
    assert "training:\n  epochs: 3\n" in runs_part
    assert "learning_rate: 0.01" not in runs_part


def test_missing_and_damaged_samples_are_named(tmp_path):
    run = a_run(tmp_path / "run", [{"split": "train", "sample": 0}])
    with pytest.raises(BenchError, match=r"samples\.parquet is damaged \(it lacks policy, prompt_id, prompt, answer"):
        written(tmp_path, [run])
    (run.folder / "samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(BenchError, match=r"samples\.parquet is (not found|damaged)"):
        written(tmp_path, [run])
    (run.folder / "samples.parquet").unlink()
    with pytest.raises(BenchError, match=r"samples\.parquet is (not found|damaged)"):
        written(tmp_path, [run])


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 72 36">{}</svg>'


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("<script>1</script>", "<script> is no part of a drawing"),
        ("<g><foreignObject/></g>", "<foreignObject> is no part of a drawing"),
        ("<a xlink:href='javascript:1'/>", "<a> is no part of a drawing"),
        ("<image xlink:href='https://example.org/a.png'/>", "refers to https://example.org/a.png"),
        ("<use href='other.svg#a'/>", "refers to other.svg#a"),
        ("<g>", "mismatched tag"),
    ],
)
def test_a_drawing_that_could_run_or_load_is_refused(tmp_path, inside, reason):
    (tmp_path / "a.svg").write_text(SVG.format(inside))
    with pytest.raises(BenchError, match=re.escape(reason)):
        inline_svg(tmp_path / "a.svg", name="a", described_by="b")


def test_a_drawing_loses_handlers_and_keeps_its_size(tmp_path):
    (tmp_path / "a.svg").write_text(
        SVG.format("<style>*{color:red}</style><path id='p' onclick='1' clip-path='url(#c)'/>")
    )
    markup, width = inline_svg(tmp_path / "a.svg", name="a", described_by="b")
    assert width == 96
    assert "onclick" not in markup
    assert "color:red" not in markup
    assert '<path id="a-p" clip-path="url(#a-c)"' in markup
    assert 'role="img" aria-labelledby="b"' in markup
