"""Command lines and configuration of the programs."""

import re
from pathlib import Path
from typing import Any

import pytest

from e2e.local import components
from e2e.local.layout import Layout

LAYOUT = Layout(Path("/state"))


def relabel(rules: list[dict[str, Any]], labels: dict[str, str]) -> dict[str, str] | None:
    """Prometheus's relabelling, as far as the rules use it; None for a dropped target."""
    labels = dict(labels)
    for rule in rules:
        value = rule.get("separator", ";").join(labels.get(name, "") for name in rule["source_labels"])
        match = re.fullmatch(rule.get("regex", "(.*)"), value)
        action = rule.get("action", "replace")
        if (action == "keep" and not match) or (action == "drop" and match):
            return None
        if action == "replace" and match:
            template = rule.get("replacement", "$1").replace("$1", r"\1")
            labels[rule["target_label"]] = match.expand(template)
    return {name: value for name, value in labels.items() if not name.startswith("__meta_")}


def pod(**changes: str) -> dict[str, str]:
    annotation = "__meta_kubernetes_pod_annotation_prometheus_io"
    return {
        "__address__": "10.244.0.7:29500",
        "__metrics_path__": "/metrics",
        "__meta_kubernetes_pod_ip": "10.244.0.7",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_namespace": "ml",
        "__meta_kubernetes_pod_name": "digits-1-0",
        "__meta_kubernetes_pod_node_name": "gpu-a-0",
        f"{annotation}_scrape": "true",
        f"{annotation}_port": "8080",
        f"{annotation}_path": "/m",
    } | changes


@pytest.fixture
def jobs() -> dict[str, dict[str, Any]]:
    """Scrape configurations by job."""
    config = components.prometheus_config(LAYOUT, "2s")
    assert config["global"] == {"scrape_interval": "2s", "scrape_timeout": "2s"}
    return {job["job_name"]: job for job in config["scrape_configs"]}


def test_an_annotated_pod_is_scraped_where_it_says(jobs: dict[str, dict[str, Any]]) -> None:
    assert relabel(jobs["pods"]["relabel_configs"], pod()) == {
        "__address__": "10.244.0.7:8080",
        "__metrics_path__": "/m",
        "namespace": "ml",
        "pod": "digits-1-0",
        "node": "gpu-a-0",
    }


def test_all_ports_of_a_pod_are_one_target(jobs: dict[str, dict[str, Any]]) -> None:
    rules = jobs["pods"]["relabel_configs"]
    assert relabel(rules, pod()) == relabel(rules, pod(__address__="10.244.0.7:8080"))


@pytest.mark.parametrize(
    "change",
    [
        {"__meta_kubernetes_pod_annotation_prometheus_io_scrape": ""},
        {"__meta_kubernetes_pod_annotation_prometheus_io_scrape": "false"},
        {"__meta_kubernetes_pod_phase": "Succeeded"},
        {"__meta_kubernetes_pod_phase": "Failed"},
    ],
)
def test_other_pods_are_left_alone(jobs: dict[str, dict[str, Any]], change: dict[str, str]) -> None:
    assert relabel(jobs["pods"]["relabel_configs"], pod(**change)) is None


def test_a_node_is_scraped_for_its_exporter_whose_labels_win(jobs: dict[str, dict[str, Any]]) -> None:
    exporter = jobs["dcgm-exporter"]
    assert exporter["honor_labels"] is True
    node = {
        "__address__": "10.244.255.10:10250",
        "__meta_kubernetes_node_address_InternalIP": "10.244.255.10",
        "__meta_kubernetes_node_name": "gpu-a-0",
    }
    assert relabel(exporter["relabel_configs"], node) == {
        "__address__": "10.244.255.10:9400",
        "node": "gpu-a-0",
    }


def test_nobody_gets_past_the_api_servers_authorizers() -> None:
    flags = components.apiserver(Path("kube-apiserver"), LAYOUT).argv
    assert "--authorization-mode=Node,RBAC" in flags
    assert "--anonymous-auth=false" in flags
    assert not [flag for flag in flags if "token-auth-file" in flag]


def test_controllers_act_under_their_own_accounts() -> None:
    flags = components.controller_manager(Path("kube-controller-manager"), LAYOUT).argv
    assert "--use-service-account-credentials=true" in flags
