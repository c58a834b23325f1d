"""Many machines, on paper: bench/scale.py, and configs/cluster.yaml, which starts them."""

from __future__ import annotations

from pathlib import Path

import yaml

CLUSTER = Path(__file__).parents[1] / "configs" / "cluster.yaml"


def test_ray_s_launcher_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    prepared = prepare_config(config)
    validate_config(prepared)
    (kind,) = prepared["available_node_types"].values()
    assert kind["min_workers"] == len(config["provider"]["worker_ips"])
    assert any("-r ~/nutgraf/requirements.txt" in line for line in prepared["setup_commands"])
    for start in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in prepared[start][-1]
    assert "--include-dashboard=false" in prepared["head_start_ray_commands"][-1]
    assert "~/.ray/auth_token" in prepared["file_mounts"]
