"""Renders and checks k8s/, deploy/compose and deploy/telemetry; tests/k8s.sh is the way in."""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

import yaml

import beside
import contract
import mutations
import rules

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = "1.33"
# What the overlays leave out: base and components in the combinations that a platform team would apply.
COMBINATIONS = {
    "tls": ["etcd", "tls", "front-tls"],
    "tls-first": ["etcd", "tls", "model-download", "workers-share-host", "autoscale"],
    "etcd-existing": ["etcd-existing", "image-urls"],
    "one-pod-replicas": ["etcd", "workers-share-host", "autoscale"],
    "download": ["etcd", "model-download", "tls"],
    "monitoring": ["etcd", "monitoring"],
}
# Kinds of the Prometheus operator, which Kubernetes has no schema of. Allowed nowhere else.
FOREIGN = {"monitoring": {"PodMonitor", "PrometheusRule"}}


@dataclass
class Context:
    """What the rules measure against."""

    options: dict
    metrics: set
    kubernetes: str = KUBERNETES
    foreign_kinds: frozenset = frozenset()


def render(kubectl, folder):
    """What kustomize makes of a folder; offline."""
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise SystemExit(f"FAILED {folder}: {done.stderr.strip()}")
    return [doc for doc in yaml.safe_load_all(done.stdout) if doc]


def variants(kubectl):
    """Every overlay, and every combination."""
    overlays = sorted(path.parent for path in (ROOT / "k8s/overlays").glob("*/kustomization.yaml"))
    found = {f"overlays/{folder.name}": (render(kubectl, folder), set()) for folder in overlays}
    scratch = ROOT / "target/k8s-combinations"
    shutil.rmtree(scratch, ignore_errors=True)
    for name, components in COMBINATIONS.items():
        folder = scratch / name
        folder.mkdir(parents=True)
        kustomization = {
            "resources": ["../../../k8s/base"],
            "components": [f"../../../k8s/components/{component}" for component in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        found[f"base + {' + '.join(components)}"] = (render(kubectl, folder), FOREIGN.get(name, set()))
    used = {component for components in COMBINATIONS.values() for component in components}
    unused = {path.name for path in (ROOT / "k8s/components").iterdir()} - used
    if unused:
        raise SystemExit(f"FAILED no combination has the components {sorted(unused)}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubectl", default="kubectl")
    parser.add_argument("--promtool", default="")
    parser.add_argument("--tessera", default="")
    args = parser.parse_args()

    names = (ROOT / "proto/service/src/metrics/names.rs").read_text()
    context = Context(contract.options(args.tessera or None), set(re.findall(r'"(tessera_[a-z_]+)"', names)))
    results = []
    rendered = variants(args.kubectl)
    for name, (docs, foreign) in rendered.items():
        context.foreign_kinds = frozenset(foreign)
        results.append((f"{name}: {len(docs)} manifests", [f"{rule}: {problem}" for rule, problem in rules.problems(docs, context)]))
    context.foreign_kinds = frozenset()
    # Breaking what is broken shows nothing.
    if not any(problems for _, problems in results):
        results += mutations.noticed({name: docs for name, (docs, foreign) in rendered.items() if not foreign}, context)
    results += beside.checks(ROOT, context, args.promtool)

    failed = [result for result in results if result[1]]
    for name, problems in results:
        print(f"{'FAILED' if problems else 'ok    '} {name}")
        for problem in problems:
            print(f"         {problem}")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
