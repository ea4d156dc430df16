"""A page tells all of a sweep from its own file alone: as text, and in a real browser."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import MINE, an_outcome, runs_of, write_experiment

from bnrepro import report
from bnrepro.config import Figures, RunConfig
from bnrepro.experiment import import_experiment
from bnrepro.places import REFERENCE
from bnrepro.presenting import present, show
from bnrepro.store import Results, Store

COMMAND = "python -m bnrepro +sweep=learning_rates train.steps=20"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def runs() -> list[RunConfig]:
    return [*runs_of("learning_rates", "train.steps=20", "seed=0,1", "model.activation=sigmoid", "optimizer.lr=0.1,25")]


@pytest.fixture(scope="module")
def folder(runs: list[RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep of 8 runs, of which one is missing and one failed; runs at a rate of 25 diverged."""
    folder = tmp_path_factory.mktemp("sweep") / "learning_rates"
    store = Store(folder, create=True)
    failed = replace(an_outcome(runs[1], diverged=False), status="failed", test_accuracy=None, curves=[])
    failed.error = 'Traceback:\n  File "x.py"\nValueError: </script><b>&amp; bad'
    store.add(
        [replace(an_outcome(runs[0]), finished="2026-01-02T03:04:05"), failed, *(an_outcome(run) for run in runs[3:])]
    )
    show(
        "learning_rates", [*runs], folder, folder, Figures(width=None, style=None, formats=["svg"]), COMMAND, quiet=True
    )
    return folder


def results_of(folder: Path, runs: list[RunConfig]) -> Results:
    return Store(folder).load(runs)


def text_of(folder: Path) -> str:
    return (folder / report.FILE).read_text("utf-8")


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" class="data">(.*?)</script>', text)
    assert found
    return json.loads(found[1])


def test_a_page_has_claims_figures_runs_tables_and_where_they_come_from(folder: Path, runs: list[RunConfig]) -> None:
    text = text_of(folder)
    assert f"<code>{COMMAND}</code>" in text
    assert "<strong>8 runs: 3 done, 3 diverged, 1 failed, 1 missing</strong>" in text
    experiment = import_experiment("learning_rates")
    assert experiment
    for claim in experiment.claims:
        assert f"<h3>{claim.id}: {claim.sentence}</h3>" in text.replace("&#39;", "'")
    for path in folder.glob("*.svg"):
        assert f'<title id="learning_rates_{path.stem}-title">{path.stem}</title>' in text
    for path in folder.glob("*.csv"):
        assert base64.b64encode(path.read_bytes()).decode() in text
    for run in runs[:2]:
        assert f'<tr data-id="{run.run_id}">' in text
    assert '<tr><th scope="row">finished</th><td class="text">2026-01-02</td></tr>' in text
    assert f'<tr><th scope="row">code</th><td class="text">{runs[0].code}</td></tr>' in text


def test_what_the_user_s_code_raised_is_text_and_ends_no_script(folder: Path) -> None:
    text = text_of(folder)
    assert "<td>ValueError: &lt;/script&gt;&lt;b&gt;&amp;amp; bad</td>" in text
    assert text.count("</script>") == len(report.SCRIPTS) + 1


def test_the_user_s_names_end_no_script(folder: Path, runs: list[RunConfig], tmp_path: Path) -> None:
    results, name = results_of(folder, runs), "</script><b>"
    results.runs["norm"] = results.runs["norm"].replace("batch", name)
    text = report.page_of("learning_rates", COMMAND, results, 8, [], tmp_path / "page").read_text("utf-8")
    assert data_of(text)["values"]["norm"] == ["none", name]
    assert text.count("</script>") == len(report.SCRIPTS) + 1


def test_names_within_figures_are_their_own(folder: Path) -> None:
    text = text_of(folder)
    ids = re.findall(r'\bid="([^"]*)"', text.partition("<h2>Runs</h2>")[0])
    for name in re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", text.partition("<h2>Runs</h2>")[0]):
        assert "".join(name) in ids
    assert len({*ids}) == len(ids)
    begins = {path.stem: f"learning_rates_{path.stem}-" for path in folder.glob("*.svg")}
    assert len(begins) > 1
    assert all(any(i.startswith(begin) for i in ids) for begin in begins.values())


def test_the_view_has_every_run_and_what_varies_alone(folder: Path, runs: list[RunConfig]) -> None:
    data = data_of(text_of(folder))
    assert data["values"] == {"norm": ["none", "batch"], "lr": ["0.1", "25"], "seed": ["0", "1"]}
    assert [*data["values"]][-1] == "seed"
    assert (data["x"], data["kind"]) == ("lr", "norm")
    assert {run["id"]: run["status"] for run in data["runs"]}.keys() == {run.run_id for run in runs} - {runs[2].run_id}
    (first,) = (run for run in data["runs"] if run["id"] == runs[0].run_id)
    assert first["settings"] == {"norm": "none", "lr": "0.1", "seed": "0"}
    assert data["curves"][first["id"]][-1] == [20, first["accuracy"]]


def test_the_same_results_make_the_same_bytes(folder: Path, runs: list[RunConfig], tmp_path: Path) -> None:
    paths = [*sorted(folder.glob("*.svg")), *sorted(folder.glob("*.csv")), folder / "verdict.json"]
    pages = [
        report.page_of("learning_rates", COMMAND, results_of(folder, runs), 8, paths, tmp_path / name) for name in "ab"
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_a_page_says_what_differs_from_the_reference_data(folder: Path) -> None:
    text = text_of(folder)
    after = text.partition("What differs from the reference data")[2]
    assert re.search(r'<tr><th scope="row">steps</th><td class="text">20</td><td class="text">\d+', after)
    assert '<th scope="row">optimizer.name</th>' not in after
    assert "The reference data say: " in text


def test_an_experiment_of_the_user_s_has_a_page_and_a_png_will_do(
    runs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, '"""Does it learn?\n\nMore."""\n' + MINE)
    experiment = import_experiment("mine")
    assert experiment
    store = Store(tmp_path / "store", create=True)
    store.add(an_outcome(run) for run in runs[:1])
    results = store.load(runs[:1])
    _, paths = present(experiment, results, tmp_path, Figures(width=None, style=None, formats=["png"]), expected=1)
    text = report.page_of("mine", "python -m bnrepro +sweep=mine", results, 1, paths, tmp_path).read_text("utf-8")
    assert "<p>Does it learn?</p>" in text
    assert '<img alt="mine" src="data:image/png;base64,' in text
    assert "What differs from" not in text


def test_one_page_has_all_reference_data_and_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("growing_rate", "batch_size"):
        shutil.copytree(REFERENCE / name, tmp_path / "reference" / name)
    monkeypatch.setattr("bnrepro.places.REFERENCE", tmp_path / "reference")
    page = report.of_references(tmp_path / "out", Figures(width=3.3, style=None, formats=["pdf"]))
    assert page == tmp_path / "out" / report.FILE
    text = page.read_text("utf-8")
    assert re.findall(r'<article id="(\w+)"', text) == ["batch_size", "growing_rate"]
    assert re.findall(r'<a href="#(\w+)">\1</a>: ', text) == ["batch_size", "growing_rate"]
    assert [len(re.findall(f'<title id="{name}_', text)) for name in ("batch_size", "growing_rate")] == [1, 1]
    rows = dict(re.findall(r'<tr><th scope="row">([^<]*)</th>.*?</td><td>([^<]*)</td>', text))
    told = json.loads((REFERENCE / "growing_rate" / "verdict.json").read_text("utf-8"))["claims"]
    for claim in told:
        assert rows[claim["id"]] == claim["verdicts"][0]["answer"]
    assert rows["A2"] == "not run"
    assert '<tr><th scope="row">reference data</th><td class="text">reference/growing_rate is ' in text
    assert "<code>python -m bnrepro +sweep=growing_rate dataset=mnist</code>" in text
    assert "these data have no curves of accuracy" in text
    stale = [name for name in ("batch_size", "growing_rate") if f"reference/{name} is stale" in text]
    assert ("stale reference data" in text) == bool(stale)


# In a real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


POINTS = ".view [aria-roledescription=point]"


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, opened; it has asked for nothing but itself and complained of nothing in the end."""
    page, told, asked = browser.new_page(viewport={"width": 1200, "height": 900}), list[str](), list[str]()
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / report.FILE).as_uri())
    page.wait_for_selector("article[data-ready]")
    yield page
    assert told == []
    assert asked == [(folder / report.FILE).as_uri()]
    page.close()


@pytest.mark.slow
def test_points_are_runs_and_crosses_are_those_that_diverged(page: Any) -> None:
    labels = [point.get_attribute("aria-label") for point in page.locator(POINTS).all()]
    statuses = [re.search(r"status: (\w+)", label) for label in labels]
    found = [status[1] for status in statuses if status]
    assert {status: found.count(status) for status in set(found)} == {"done": 3, "diverged": 3, "failed": 1}
    assert page.locator("table.runs tbody tr").count() == 7


@pytest.mark.slow
def test_a_click_or_a_tick_draws_a_curve_and_another_takes_it_away(page: Any) -> None:
    curves = page.locator(".view [aria-roledescription='line mark']")
    drawn = curves.count()
    page.locator(POINTS).first.click(force=True)
    assert page.locator("table.runs input:checked").count() == 1
    page.locator("table.runs input").last.check()
    assert curves.count() == drawn + 2
    while page.locator("table.runs input:checked").count():
        page.locator("table.runs input:checked").first.uncheck()
    assert curves.count() == drawn


@pytest.mark.slow
def test_filters_leave_the_runs_that_they_say(page: Any) -> None:
    page.get_by_label("norm", exact=True).select_option("batch")
    page.get_by_label("seed", exact=True).select_option("0")
    rows = page.locator("table.runs tbody tr:visible")
    assert rows.count() == page.locator(POINTS).count() > 0
    assert all(row.locator("td").nth(3).inner_text() == "batch" for row in rows.all())
    page.get_by_label("against").select_option("norm")
    assert "place: batch" in page.locator(POINTS).first.get_attribute("aria-label")


@pytest.mark.slow
def test_the_table_is_sorted_by_numbers(page: Any) -> None:
    head = page.get_by_role("button", name="test accuracy")
    head.click()
    head.click()
    cells = [row.locator("td").nth(6).inner_text() for row in page.locator("table.runs tbody tr").all()]
    numbers = [float(cell) for cell in cells if cell]
    assert numbers == sorted(numbers, reverse=True)
    assert cells[-1] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"viewport": {"width": 390, "height": 800}},
        {"color_scheme": "dark"},
        {"java_script_enabled": False},
    ],
    ids=["phone", "dark", "no scripts"],
)
def test_a_page_can_be_read(browser: Any, folder: Path, settings: dict[str, Any]) -> None:
    page = browser.new_page(**settings)
    page.goto((folder / report.FILE).as_uri())
    assert page.locator("figure svg").first.is_visible()
    assert page.locator("table.runs tbody tr").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    fore, back = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert fore != back
    page.close()
