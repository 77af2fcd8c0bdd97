"""The run report from the command line to a real browser's screen."""

import doctest
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread
from synthetic_run import SyntheticRun, build_run

from knapsack_rl.metrics_file import MetricsFile
from recipe.knapsack.report import report, report_command
from recipe.knapsack.report.figures.style import BLUE, COLORS
from recipe.knapsack.report.report import CHARTS, PAGE_FILE
from recipe.knapsack.report.report_command import main

SIZES = {"num_prompts": 96, "prompts_per_step": 16, "steps": 60, "planned_steps": 60, "held_out": ("x", "y")}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The first that starts: some distributions have a program of this name that only says how to install a browser.
BROWSER = next(
    (
        name
        for name in filter(shutil.which, BROWSERS)
        if not subprocess.run([name, "--version"], capture_output=True).returncode
    ),
    None,
)
BROWSER_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
LINK_ATTRIBUTES = {"src", "href", "srcset", "data", "action", "poster", "background"}


class PageReader(HTMLParser):
    """Collects the tags, links, images and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.tags, self.ids, self.text = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.links += [attributes[name] for name in LINK_ATTRIBUTES & attributes.keys()]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            self.images.append(attributes)

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        build_run(root / "grpo", SyntheticRun("homogeneous", **SIZES)),
        build_run(root / "knapsack", SyntheticRun("knapsack", **{**SIZES, "steps": 44})),
    ]


@pytest.fixture(scope="module")
def output(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    assert main([*map(str, folders), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def page(output):
    return PageReader((output / PAGE_FILE).read_text())


@pytest.fixture
def only(monkeypatch):
    """Leave all charts but the named ones out, to save time."""

    def keep(*names):
        monkeypatch.setattr(report, "CHARTS", [chart for chart in CHARTS if chart.name in names])

    return keep


def report_on(tmp_path, *arguments):
    assert main([*map(str, arguments), "--output", str(tmp_path / "report")]) == 0
    return PageReader((tmp_path / "report" / PAGE_FILE).read_text())


def test_doctests():
    assert doctest.testmod(report).failed == 0


def test_every_figure_is_on_the_page_and_in_a_file(output, page):
    assert [image["alt"] for image in page.images] == [chart.title for chart in CHARTS]
    assert {path.name for path in output.iterdir()} == {PAGE_FILE, *(f"{chart.name}.png" for chart in CHARTS)}
    for chart in CHARTS:
        assert chart.reading in page.words
        assert imread(output / f"{chart.name}.png").std() > 0.02


def test_every_figure_says_below_the_picture_how_to_read_it(page):
    inside = {"img", "figcaption"}
    order = [tag for tag in page.tags if tag in inside]
    assert order == ["img", "figcaption"] * len(CHARTS)


def test_the_page_needs_nothing_but_itself(page):
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_the_page_tells_which_knapsack_rl_made_each_run(page):
    assert "Knapsack RL 0.2.0, commit 0123abcd" in page.words


def test_the_summary_tells_how_far_each_run_got(page):
    assert "60 / 60" in page.words
    assert "44 / 60" in page.words
    assert "(step 40)" in page.words
    assert "step 44 of 60, last wrote" in page.words
    assert "exploration.allocator homogeneous knapsack" in page.words


def test_one_run_in_the_place_of_an_earlier_report(tmp_path, folders):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "budget_distribution.png").write_bytes(b"of the earlier report")
    page = report_on(tmp_path, folders[0])
    assert "Left out" in page.words
    assert "Every prompt got 8 rollouts at every step" in page.words
    assert len(page.images) == len(CHARTS) - 2
    assert not (tmp_path / "report" / "budget_distribution.png").exists()


def test_a_run_that_lacks_something_is_named_where_it_is_not_shown(tmp_path, folders):
    lacking = build_run(tmp_path / "lacking", SyntheticRun(**SIZES, history=False))
    page = report_on(tmp_path, folders[0], lacking)
    assert "lacking is not shown. No per-prompt history was written yet" in page.words
    assert "lacking: There is no history folder" in page.words


def test_a_run_that_crashed_before_its_first_step(tmp_path):
    MetricsFile(tmp_path / "crashed").log({"val-core/x/acc/mean@4": 0.25}, step=0)
    page = report_on(tmp_path, tmp_path / "crashed")
    assert [image["alt"] for image in page.images] == ["Held-out accuracy"]
    assert "25.0%" in page.words


def test_different_held_out_sets_are_not_averaged_together(tmp_path, folders, only):
    only("held_out_accuracy")
    other = build_run(tmp_path / "other", SyntheticRun(**{**SIZES, "held_out": ("y", "z")}))
    assert "y (avg@4), the sets that all runs have in common" in report_on(tmp_path, folders[0], other).words
    alien = build_run(tmp_path / "alien", SyntheticRun(**{**SIZES, "held_out": ("z",)}))
    assert "no held-out set in common, do not compare" in report_on(tmp_path, folders[0], alien).words


def test_names_are_shown_as_they_are(tmp_path, folders, only):
    only("gradient_phases", "effective_gradient_ratio")
    page = report_on(tmp_path, *folders, "--names", "<b>GRPO</b> & co", r"ours $\frac$")
    assert "<b>GRPO</b> & co" in page.words
    assert "b" not in page.tags
    assert r"ours $\frac$" in page.words


def test_the_seed_chooses_the_prompts(tmp_path, folders, only):
    only("prompt_trajectories")
    pictures = []
    for seed in (0, 0, 5):
        report_on(tmp_path, *folders, "--seed", seed, "--prompts", 4)
        pictures.append((tmp_path / "report" / "prompt_trajectories.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["."], "neither metrics.jsonl nor history/"),
        ([".", "--prompts", "0"], "--prompts must be at least 1"),
    ],
)
def test_errors_say_what_is_wrong_and_write_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--output", "report"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
@pytest.mark.end_to_end
def test_a_real_run(tmp_path, train):
    train(tmp_path / "run", "trainer.total_training_steps=3", "trainer.val_before_train=true")
    page = report_on(tmp_path, tmp_path / "run")
    assert "3 / 3" in page.words
    assert "finished, 3 steps" in page.words
    assert f"{3 * 16 * 4}" in page.words
    shown = {image["alt"] for image in page.images}
    assert {"Phases of training", "Held-out accuracy", "Final statuses", "Where the time goes"} <= shown
    # Three steps are not an epoch, so every prompt was unseen and got the same.
    assert "Every prompt got 4 rollouts at every step" in page.words
    assert "estimates begin with the second epoch" in page.words


# --- A run that goes on -----------------------------------------------------------------------------------------------


def test_following_writes_the_report_again_when_the_run_has_grown_and_ends_with_it(tmp_path, monkeypatch, capsys):
    folder = build_run(tmp_path / "run", SyntheticRun(**{**SIZES, "steps": 20}))
    whole = build_run(tmp_path / "whole", SyntheticRun(**SIZES))
    pages, waits = [], []

    def wait(seconds):
        waits.append(seconds)
        pages.append((tmp_path / "report" / PAGE_FILE).read_text())
        if len(waits) == 2:  # nothing has changed in the first
            for file in ("metrics.jsonl", "history"):
                target = folder / file
                shutil.rmtree(target) if target.is_dir() else target.unlink()
                (shutil.copytree if (whole / file).is_dir() else shutil.copy)(whole / file, target)

    monkeypatch.setattr(report_command.time, "sleep", wait)
    assert main([str(folder), "--output", str(tmp_path / "report"), "--follow", "7"]) == 0
    assert waits == [7.0, 7.0] and pages[0] == pages[1]
    assert 'http-equiv="refresh" content="7"' in pages[0] and "step 20 of 60" in pages[0]
    last = (tmp_path / "report" / PAGE_FILE).read_text()
    assert "finished, 60 steps" in last and "refresh" not in last
    assert capsys.readouterr().out.count(PAGE_FILE) == 2


def test_following_a_run_that_is_deleted_ends_in_a_line(tmp_path, monkeypatch, capsys):
    folder = build_run(tmp_path / "run", SyntheticRun(**{**SIZES, "steps": 20}))
    monkeypatch.setattr(report_command.time, "sleep", lambda seconds: shutil.rmtree(folder))
    assert main([str(folder), "--output", str(tmp_path / "report"), "--follow", "7"]) == 2
    assert capsys.readouterr().err == (
        f"error: {folder} is not a folder: expected the folder of a run (trainer.default_local_dir)\n"
    )
    assert (tmp_path / "report" / PAGE_FILE).exists()


def test_an_output_that_cannot_be_written_to_is_named(tmp_path, folders, capsys):
    (tmp_path / "file").touch()
    assert main([*map(str, folders), "--output", str(tmp_path / "file")]) == 2
    assert f"--output {tmp_path / 'file'} cannot be written to" in capsys.readouterr().err


def test_following_never_is_refused(tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path), "--follow", "0"]) == 2
    assert "--follow must be more than 0 seconds" in capsys.readouterr().err


# --- In a browser -----------------------------------------------------------------------------------------------------


def browse(tmp_path, page, *options):
    command = [BROWSER, *BROWSER_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine (apt-get install chromium)")
class TestInABrowser:
    def test_the_page_is_drawn_with_its_figures(self, tmp_path, output):
        picture = tmp_path / "page.png"
        browse(tmp_path, output / PAGE_FILE, "--window-size=1000,9000", f"--screenshot={picture}")
        pixels = (imread(io.BytesIO(picture.read_bytes()))[..., :3] * 255).round().astype(int)
        for color in (BLUE, COLORS[0]):
            # Colours of the runs: nothing on the page but its figures has them.
            wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
            rows = np.flatnonzero((np.abs(pixels - wanted).max(axis=-1) <= 2).sum(axis=1) > 3)
            assert len(rows) > 500
            assert rows.max() - rows.min() > 4000

    def test_every_image_is_loaded_and_nothing_is_wider_than_the_window(self, tmp_path, output):
        measure = (
            "<script>addEventListener('load', () => { document.title = JSON.stringify("
            "[...document.images].map(i => [i.complete, i.naturalWidth, i.width]).concat("
            "[[true, document.documentElement.scrollWidth, innerWidth]])) })</script>"
        )
        text = (output / PAGE_FILE).read_text()
        # The page forbids scripts; the copy that is measured must allow this one.
        copy = tmp_path / "measured.html"
        copy.write_text(re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</head>", measure + "</head>"))
        document = browse(tmp_path, copy, "--window-size=700,2000", "--virtual-time-budget=5000", "--dump-dom")
        *images, (_, page_width, window_width) = json.loads(re.search(r"<title>(.*?)</title>", document)[1])
        assert len(images) == len(CHARTS)
        assert all(complete and natural_width > shown_width > 500 for complete, natural_width, shown_width in images)
        assert page_width <= window_width
