"""Models that are missing, incomplete or nowhere on the hub are refused before anything is downloaded."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from verl.trainer.config.checks import Facts
from verl.trainer.config.checks.models import check_models
from verl.trainer.config.checks.prompts import check_prompt_lengths

PATH = "actor_rollout_ref.model.path"


@pytest.fixture
def model(tmp_path):
    """A folder with these files of a model."""

    def make(*names: str):
        folder = tmp_path / "model"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
        return folder

    return make


def test_a_complete_model_is_accepted(refusal, model):
    assert refusal(check_models, {PATH: str(model("config.json", "tokenizer.json", "model.safetensors"))}) == ""


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no config.json"),
        (("config.json", "model.safetensors"), "no tokenizer"),
        (("config.json", "tokenizer.json"), "no weights"),
        (("config.json", "tokenizer.json", "model.safetensors.index.json"), "damaged model.safetensors.index.json"),
    ],
)
def test_an_incomplete_model_is_refused(refusal, model, names, said):
    assert said in refusal(check_models, {PATH: str(model(*names))})


def test_a_dry_run_needs_no_more_than_the_models_configuration(refusal, model):
    settings = {PATH: str(model("config.json"))}
    for check in (check_models, check_prompt_lengths):
        assert refusal(check, settings, Facts(trains_here=False)) == ""
        assert "tokenizer" in refusal(check, settings)


def test_missing_shards_are_counted(refusal, model):
    folder = model("config.json", "vocab.json", "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "c.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks 2 of its 3 files of weights (b.safetensors" in refusal(check_models, {PATH: str(folder)})


def test_the_critics_and_the_reward_models_are_checked_where_they_are_used(refusal, model):
    folder = str(model("config.json", "tokenizer.json", "model.safetensors"))
    settings = {PATH: folder, "critic.model.path": "/no/critic", "reward_model.model.path": "/no/judge"}
    assert refusal(check_models, settings) == ""
    assert "critic.model.path=/no/critic" in refusal(check_models, {**settings, "algorithm.adv_estimator": "gae"})
    assert "reward_model.model.path=/no/judge" in refusal(check_models, {**settings, "reward_model.enable": True})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Facts of a machine with an empty cache and a hub that has the model team/known alone."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            known = self.path.startswith("/api/models/team/known")
            body = json.dumps({"id": "team/known"} if known else {"error": "Repository not found"}).encode()
            self.send_response(200 if known else 404)
            if not known:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Facts(environment={"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"})
    server.shutdown()
    server.server_close()


def test_a_name_on_the_hub_is_accepted_and_a_typo_is_not(refusal, hub):
    assert refusal(check_models, {PATH: "team/known"}, hub) == ""
    said = refusal(check_models, {PATH: "team/knwon"}, hub)
    assert said.startswith(f"{PATH}=team/knwon is neither a folder here nor a model on the hub")


def test_a_hub_that_cannot_be_reached_or_must_not_be_is_said(refusal):
    unreachable = Facts(environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "the hub cannot be reached" in refusal(check_models, {PATH: "team/known"}, unreachable)
    offline = Facts(environment={"HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE forbids the network" in refusal(check_models, {PATH: "team/known"}, offline)


def test_what_is_elsewhere_is_left_alone(refusal):
    assert refusal(check_models, {PATH: "hdfs://cluster/model"}) == ""
    assert refusal(check_models, {PATH: "team/known"}, Facts(environment={"VERL_USE_MODELSCOPE": "true"})) == ""
    for path in ("/no/model", "team/known"):
        assert refusal(check_models, {PATH: path}, Facts(trains_here=False)) == ""
    assert "does not exist" in refusal(check_models, {PATH: "/no/model"})
