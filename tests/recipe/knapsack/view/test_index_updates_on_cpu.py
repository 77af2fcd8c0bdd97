"""The index is brought up to date while pages are answered, and pages say what they lack."""

from __future__ import annotations

import threading
import time

from werkzeug.test import Client

from recipe.knapsack.view.index_updates import IndexUpdates
from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_files import RunFiles
from recipe.knapsack.view.run_index import RunIndex
from recipe.knapsack.view.view_server import ViewApplication


def updates_of(folder, tmp_path, **options):
    index = RunIndex(tmp_path / "index.sqlite", [RunFiles("run", folder)])
    texts = PromptTexts(index)
    updates = IndexUpdates(index, texts, **options)
    return Client(ViewApplication(index, texts, updates)), updates


def shown_when(client, condition):
    deadline = time.monotonic() + 60
    while not condition(page := client.get("/prompts", base_url="http://localhost/").text):
        assert time.monotonic() < deadline, page
        time.sleep(0.05)
    return page


def test_pages_say_what_is_being_read_until_it_is(run_folders, tmp_path):
    held = threading.Event()
    client, updates = updates_of(run_folders["knapsack"], tmp_path, tell=lambda *_: held.wait(60))
    updates.start()
    page = client.get("/prompts", base_url="http://localhost/").text
    assert "Reading the " in page and 'http-equiv="refresh" content="4"' in page
    held.set()
    page = shown_when(client, lambda page: "Reading the " not in page)
    assert "200 prompts" in page and "What is" in page and "refresh" not in page
    updates.stop()


def test_an_error_that_ends_the_updates_is_told_on_the_pages(run_folders, tmp_path, caplog):
    def fail(what, done, total):
        if what.startswith("rollouts"):
            raise RuntimeError("no space left")

    client, updates = updates_of(run_folders["knapsack"], tmp_path, tell=fail)
    updates.start()
    page = shown_when(client, lambda page: "no longer read" in page)
    assert "RuntimeError: no space left" in page and "What is" in page
    updates.stop()
    assert "no longer brought up to date" in caplog.text


def test_updates_that_are_stopped_in_the_middle_leave_nothing_running(run_folders, tmp_path):
    begun = threading.Event()
    _, updates = updates_of(run_folders["knapsack"], tmp_path, tell=lambda *_: begun.set())
    updates.start()
    assert begun.wait(60)
    updates.stop()
    assert updates.sentences() == [] or "no longer" not in updates.sentences()[0]
    assert not [thread for thread in threading.enumerate() if thread.name == "view-index"]
