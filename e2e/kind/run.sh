#!/usr/bin/env bash
# The demo on kind, for machines with Docker.
#
#   e2e/kind/run.sh up      make the cluster, build the images and load them, simulate GPUs, start Prometheus
#   e2e/kind/run.sh demo    the same if need be, then install the chart and let two jobs share the GPUs
#   e2e/kind/run.sh down    delete the cluster
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly CLUSTER=cra
readonly HERE=e2e/kind
readonly KUBECONFIG_FILE=${XDG_CACHE_HOME:-$HOME/.cache}/cra/kind/kubeconfig
PYTHON=${PYTHON:-.venv/bin/python}

say() { printf '==> %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

need() {
    local missing=0 tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null && continue
        missing=1
        case $tool in
            docker) echo 'docker is not on PATH: it runs the nodes and builds the images. Install Docker Engine or Desktop.' ;;
            kind) echo "kind is not on PATH: it makes the cluster. With Go: go install sigs.k8s.io/kind@latest" ;;
            kubectl) echo 'kubectl is not on PATH: it talks to the cluster. Your package manager, or the Kubernetes release page, has it.' ;;
            helm) echo 'helm is not on PATH: it installs the chart. With Go: go install helm.sh/helm/v3/cmd/helm@latest' ;;
        esac >&2
    done
    [ "$missing" = 0 ] || exit 1
}

kube() { kubectl --kubeconfig "$KUBECONFIG_FILE" "$@"; }

exists() { kind get clusters 2>/dev/null | grep -qx "$CLUSTER"; }

up() {
    need docker kind kubectl
    docker info >/dev/null 2>&1 || fail 'docker is there but its daemon does not answer: start it, or let your user talk to it.'
    if exists; then
        say "the cluster $CLUSTER is there already"
        kind export kubeconfig --name "$CLUSTER" --kubeconfig "$KUBECONFIG_FILE" --quiet
    else
        say "making the cluster $CLUSTER"
        mkdir -p "$(dirname "$KUBECONFIG_FILE")"
        kind create cluster --name "$CLUSTER" --config "$HERE/cluster.yaml" --kubeconfig "$KUBECONFIG_FILE" --wait 180s
    fi
    images
    simulate_gpus
    say 'starting Prometheus'
    kube apply -f "$HERE/prometheus.yaml"
    say "ready: kubectl --kubeconfig $KUBECONFIG_FILE get nodes"
}

images() {
    local version
    version=$(sed -n 's/^appVersion: *//p' charts/cra-operator/Chart.yaml)
    # Images that pods find on their node need no registry.
    say "building cra-operator:$version and cra-trainer:$version"
    docker build -f operator/Dockerfile -t "cra-operator:$version" .
    docker build -f trainer_image/Dockerfile -t "cra-trainer:$version" --build-arg "PIP_ARGS=${PIP_ARGS:-}" .
    say 'loading them into the nodes'
    kind load docker-image --name "$CLUSTER" "cra-operator:$version" "cra-trainer:$version"
}

simulate_gpus() {
    local node
    say 'giving each worker four simulated GPUs of half a core'
    for node in $(kube get nodes -l nvidia.com/gpu.present=true -o name); do
        kube patch "$node" --subresource=status --type=merge --patch-file "$HERE/gpu-status.yaml"
    done
    kube apply -n default -f "$HERE/quota.yaml"
}

demo() {
    need docker kind kubectl helm
    [ -x "$PYTHON" ] || fail "$PYTHON is not there: python3 -m venv .venv && .venv/bin/pip install -e '.[local]'"
    up
    "$PYTHON" -m e2e.demo --kubeconfig "$KUBECONFIG_FILE"
}

down() {
    need docker kind
    kind delete cluster --name "$CLUSTER" --kubeconfig "$KUBECONFIG_FILE"
    rm -f "$KUBECONFIG_FILE"
}

case ${1:-} in
    up | down | demo) "$1" ;;
    *) fail 'usage: e2e/kind/run.sh up|demo|down' ;;
esac
