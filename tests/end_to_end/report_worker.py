"""Says where a worker runs: an ``actor_rollout_ref.model.external_lib`` for tests.

In the folder named by the environment variable ``WORKERS`` every worker leaves a file named by its rank, with its pid,
its Ray node and the folder in which it found verl.
"""

import json
import os
from pathlib import Path

import ray

import verl

where = {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id(), "verl": str(verl.OVERLAY_FOLDER)}
(Path(os.environ["WORKERS"]) / f"rank_{os.environ['RANK']}.json").write_text(json.dumps(where))
