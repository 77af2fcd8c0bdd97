"""The pages: harmless whatever responses hold, served to this machine only, written as files, and used in a browser."""

from __future__ import annotations

import doctest
import io
import re
import shutil
import threading
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from browser import Browser, find_browser
from synthetic_run import messages
from view_runs import Reader, make_index
from werkzeug.test import Client

from knapsack_rl import prompt_id
from knapsack_rl.rollout_dump import RolloutDump
from recipe.knapsack.view import prompt_export
from recipe.knapsack.view.harmless_text import harmless, shortened
from recipe.knapsack.view.view_command import main
from recipe.knapsack.view.view_server import ViewApplication, serve

BROWSER = find_browser()
MISLABELLED = prompt_id("synthetic", messages(100))
HOSTILE = {
    "script": "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">",
    "end of the element": "</pre></bdi><h1 id=planted>planted</h1><!-- <style>*{display:none}</style>",
    "attribute": "\" onmouseover=\"document.title='taken'\" x='",
    "template": "{{ 7 * 7 }}{% raw %}",
    "right to left": "abc \u202egnp.exe\u202c \u0645\u0631\u062d\u0628\u0627 \u2067hidden\u2069",
    "controls": "a\x00b\x1b[31mred\x07\x08\x7f\x85\r\nnext\u2028line\u200bzero\ufeff",
    "marks": "z" + "\u0301" * 5000,
    "long": "x" * 100_000 + "<b>end</b>",
    "emoji": "\U0001f469\u200d\U0001f52c \U000e0041\U000e0042 ok",
    "empty": "",
}


@pytest.fixture(scope="module")
def client(indexed):
    return Client(ViewApplication(*indexed))


def get(client, address, status=200, host="localhost"):
    response = client.get(address, base_url=f"http://{host}/")
    assert response.status_code == status, response.text
    return response


@pytest.fixture
def hostile_run(tmp_path):
    """A run whose prompt, source, answers and responses are all hostile."""
    folder = tmp_path / "<b>run</b>"
    dump = RolloutDump(folder / "rollouts", 10**9)
    texts = list(HOSTILE.values())
    count = len(texts)
    dump.append(
        3,
        0,
        {
            "prompt_id": [MISLABELLED] * count,
            "prompt_class": ["mixed"] * count,
            "estimate": np.full(count, np.nan),
            "budget": np.full(count, count),
            "score": np.full(count, np.nan),
            "acc": [None] * count,
            "pred": texts,
            "is_success": np.zeros(count, dtype=bool),
            "advantage": np.full(count, np.inf),
            "response_tokens": np.full(count, 9),
            "response": texts,
        },
    )
    dump.flush()
    return folder


# ---------------------------------------------------------------- harmless text


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_that_acts_is_left_in_a_text_and_nothing_else_is_lost(name):
    shown = harmless(HOSTILE[name])
    controls, directions = "\x00-\x08\x0b-\x1f\x7f-\x9f", "\u200e\u200f\u2028-\u202e\u2066-\u2069"
    assert not re.search(f"[{controls}{directions}\u200b\ufeff\U000e0000-\U000e007f]", shown)
    plain = re.sub(r"[^ -~]", "", HOSTILE[name])
    assert plain in re.sub(r"[^ -~]", "", re.sub("⟨[^⟩]*⟩", "", shown))
    assert len(re.findall("\u0301", shown)) <= 8
    assert "".join(shortened(HOSTILE[name], 100)) == HOSTILE[name]


@pytest.mark.parametrize("where", ["first", "first=8"])
def test_hostile_responses_are_shown_as_text(hostile_run, tmp_path, where):
    client = Client(ViewApplication(*make_index(tmp_path / "index.sqlite", hostile_run)))
    pages = [get(client, address).text for address in ("/", "/prompts", f"/prompt?id={MISLABELLED}&{where}")]
    for page in pages:
        reader = Reader(page)
        assert not {"script", "img", "iframe", "object", "embed"} & set(reader.tags)
        assert not [name for name in reader.attributes if name.startswith("on") or name == "style"]
        assert all(link.startswith("/") for link in reader.links)
    assert "<b>run</b>" in Reader(pages[0]).text


# ---------------------------------------------------------------- the server


def test_pages_load_nothing_from_elsewhere_and_forbid_scripts(client):
    for address in ("/", "/prompts?list=never-solved&against=1", f"/prompt?id={MISLABELLED}&run2=1"):
        response = get(client, address)
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-") and "script" not in policy
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert all(link.startswith("/") for link in Reader(response.text).links)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
def test_a_page_of_another_name_that_resolves_to_this_machine_gets_nothing(client, host):
    response = get(client, "/prompts", 421, host=host)
    assert "knapsack" not in response.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8321", "localhost:9000"])
def test_the_names_of_this_machine_are_answered_at_any_port(client, host):
    get(client, "/", host=host)


@pytest.mark.parametrize(
    "address",
    [
        "/../../etc/passwd",
        "/%2e%2e/config.yaml",
        "/config.yaml",
        "//etc/passwd",
        "/prompts/../index.sqlite",
        "/static/x",
    ],
)
def test_nothing_is_served_by_its_path(client, address):
    assert "root:" not in get(client, address, 404).text


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/prompt?id=../../etc/passwd", 404),
        ("/prompt?id=%00%ff", 404),
        (f"/prompt?id={MISLABELLED}&step=x", 400),
        (f"/prompt?id={MISLABELLED}&run=9", 400),
        ("/prompts?sort=%27", 400),
        ("/prompts?page=99999", 200),
        (f"/prompt?id={MISLABELLED}&step=99999&first=-5", 200),
        ("/export?format=exe", 400),
        ("/export?format=csv&rows=others", 400),
        ("/export?format=parquet&rows=some", 400),
        ("/prompts?text=%3Cscript%3E", 200),
        ("/prompts?text=" + "_%25" * 30_000, 200),
        ("/prompts?k=99999999999999999999", 400),
        ("/prompts?rollouts_min=1e308", 200),
    ],
)
def test_strange_addresses_are_answered_calmly(client, address, status):
    assert "<script" not in get(client, address, status).text


def test_the_server_only_shows(client):
    assert client.post("/prompts", base_url="http://localhost/").status_code == 405


def test_exports_hold_the_list_and_can_be_trained_on_or_left_out(client, run_folders):
    data = pd.read_parquet(run_folders["knapsack"] / "train.parquet")
    listed = pd.read_csv(io.StringIO(get(client, "/export?format=csv&list=never-solved&k=10").text))
    assert {"prompt_id", "rollouts", "prompt", "ground_truth"} <= set(listed) and 0 < len(listed) < len(data)
    parts = {}
    for rows in ("listed", "others"):
        content = get(client, f"/export?format=parquet&list=never-solved&k=10&rows={rows}").data
        parts[rows] = pq.read_table(io.BytesIO(content))
        assert parts[rows].schema.equals(pq.read_schema(run_folders["knapsack"] / "train.parquet"))
    texts = {rows: {prompt[0]["content"] for prompt in table["prompt"].to_pylist()} for rows, table in parts.items()}
    assert texts["listed"] == set(listed["prompt"])
    assert texts["listed"].isdisjoint(texts["others"])
    assert len(parts["listed"]) + len(parts["others"]) == len(data)


def test_no_text_of_a_csv_is_a_formula(run_folders, tmp_path):
    assert doctest.testmod(prompt_export).failed == 0
    index, texts = make_index(tmp_path / "index.sqlite", run_folders["knapsack"])
    with index.connect() as database:
        database.execute("UPDATE prompts SET data_source = '=cmd|1', ground_truth = '-5', messages = '\"+x\"'")
    exported = get(Client(ViewApplication(index, texts)), "/export?format=csv").text
    row = pd.read_csv(io.StringIO(exported), dtype=str).iloc[0]
    assert (row["source"], row["ground_truth"], row["prompt"]) == ("'=cmd|1", "-5", "'+x")


def test_an_empty_list_is_no_parquet_file(client):
    assert "no such rows" in get(client, "/export?format=parquet&rollouts_min=1e9", 400).text


@pytest.mark.parametrize("change", ["moved", "garbage", "other rows"])
def test_rows_of_data_files_that_are_not_those_that_were_read_are_not_exported(run_folders, tmp_path, change):
    folder = shutil.copytree(run_folders["knapsack"], tmp_path / "run")
    data = folder / "train.parquet"
    client = Client(ViewApplication(*make_index(tmp_path / "index.sqlite", folder, data=(data,))))
    rows = pq.read_table(data)
    data.unlink()
    if change == "garbage":
        data.write_bytes(b"PAR1 and so on")
    elif change == "other rows":
        pq.write_table(rows.slice(1), data)
    told = get(client, "/export?format=parquet", 400).text
    assert str(data) in told and ("cannot be read any more" if change == "moved" else "has changed") in told


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def page(tmp_path):
    browser = Browser(BROWSER, tmp_path / "profile")
    yield browser
    browser.close()


def column(page, number):
    cells = page.run(f"[...document.querySelectorAll('.prompts tbody td:nth-of-type({number})')].map(e => e.innerText)")
    return [float(cell.strip("%").replace(",", "")) for cell in cells if cell != "–"]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine (apt-get install chromium)")
class TestInABrowser:
    def test_open_sort_filter_open_a_prompt_and_compare_two_runs(self, page, address):
        page.open(address)
        page.click("tbody tr:first-child a")
        assert page.run("document.querySelectorAll('.prompts tbody tr').length") == 100
        page.click("thead a[href*='sort=rate']")
        rates = column(page, 1)
        assert rates == sorted(rates, reverse=True)
        page.click("thead a[href*='sort=rate']")
        rates = column(page, 1)
        assert rates == sorted(rates) and page.run("document.querySelector('[aria-sort]').ariaSort") == "ascending"
        page.type_into("input[name=rate_min]", "0.3")
        page.type_into("input[name=rate_max]", "0.7")
        page.run("document.querySelector('select[name=against]').value = '1'")
        page.click("form button")
        rates = column(page, 1)
        assert rates and all(30 <= rate <= 70 for rate in rates) and rates == sorted(rates)
        assert "difference" in page.run("document.querySelector('thead').innerText")
        page.click(".prompts tbody a")
        assert page.run("document.querySelectorAll('svg.picture').length") == 2
        assert "What is" in page.run("document.querySelector('.quoted').innerText")
        assert page.messages == []

    def test_rollouts_of_two_runs_stand_beside_each_other(self, page, address):
        page.open(f"{address}/prompts?list=ground-truth&k=1&against=1")
        page.click(".prompts tbody a")
        left, right = page.run("[...document.querySelectorAll('.sides section')].map(e => e.getBoundingClientRect().x)")
        assert right > left + 300
        assert page.run("document.querySelectorAll('article').length") > 1
        assert "answer" in page.run("document.querySelector('article').innerText")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")

    def test_pages_are_read_on_a_narrow_screen(self, page, address):
        page.command("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        broken = "[...document.querySelectorAll('td.text')].filter(e => e.clientWidth < 100).length"
        for path in ("/", "/prompts?against=1", f"/prompt?id={MISLABELLED}&run2=1"):
            page.open(address + path)
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), path
            assert page.run(broken) == 0, f"words of {path} are broken"
        assert page.run("document.querySelector('svg.picture text').getBoundingClientRect().height") >= 9
        page.open(f"{address}/prompts")
        assert page.run("document.querySelector('.prompts tbody td').getBoundingClientRect().right") <= 390

    def test_an_export_is_downloaded(self, page, address):
        page.open(f"{address}/prompts?list=never-solved&k=5")
        page.click("a[href*='format=parquet']", loads=False)
        deadline = time.monotonic() + 30
        while not list(page.downloads.glob("*.parquet")):
            assert time.monotonic() < deadline
            page.run("1")
            time.sleep(0.1)
        (file,) = page.downloads.glob("*.parquet")
        assert len(pq.read_table(file)) == page.run("parseInt(document.querySelector('.pager b').innerText)")

    def test_hostile_responses_do_nothing(self, page, hostile_run, tmp_path):
        application = ViewApplication(*make_index(tmp_path / "index.sqlite", hostile_run))
        server = serve(application, 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for first in (0, 8):
            page.open(f"http://127.0.0.1:{server.port}/prompt?id={MISLABELLED}&first={first}")
            assert page.run("document.title").startswith("Prompt: ")
            assert page.run("document.querySelector('#planted')") is None
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            assert page.run("[...document.querySelectorAll('pre')].every(e => e.clientHeight < 700)")
        server.shutdown()
        server.server_close()
        assert page.messages == []

    def test_static_pages_are_used_without_a_server(self, page, run_folders, tmp_path):
        assert main([*map(str, run_folders.values()), "--static", str(tmp_path / "out"), "--static-pages", "60"]) == 0
        page.open((tmp_path / "out" / "index.html").as_uri())
        page.click("tbody tr:first-child a")
        page.click("a[href*='prompt-']")
        assert page.run("document.querySelectorAll('svg.picture').length") == 2
        assert page.messages == []
