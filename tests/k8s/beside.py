"""What is checked beside k8s/: Dockerfile, compose file, alerts, dashboard and the copy of the alerts for the operator."""

import fnmatch
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import compose_spec
import yaml

import contract

TIMEOUT = 60


def checks(root, context, promtool):
    """(what, problems) of each."""
    return [
        ("Dockerfile", list(dockerfile(root))),
        ("compose file", list(compose(root, context))),
        ("alerts and dashboard use metrics that are there", list(telemetry(root, context))),
        ("alerts are the same for the operator", list(same_alerts(root))),
    ] + ([("promtool accepts and tests the alerts", list(prometheus(root, promtool)))] if promtool else [])


def dockerfile(root):
    """hadolint has nothing to say, and what the build needs is not kept out of it. Building it needs Docker."""
    path = root / "deploy/docker/Dockerfile"
    hadolint = pathlib.Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        yield done.stdout + done.stderr
    text = path.read_text()
    rules = [line.strip() for line in (root / ".dockerignore").read_text().splitlines() if line.strip() and not line.startswith("#")]
    members = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]
    copied = [word for line in re.findall(r"^COPY (?!--from)((?:.|\\\n)*?)$", text, re.M) for word in re.findall(r"[\w./-]+", line)[:-1]]
    needed = ["Cargo.toml", "Cargo.lock", *(f"{member}/Cargo.toml" for member in members), *(file for file in copied if file != ".")]
    for file in needed:
        if not (root / file).exists() or ignored(file, rules):
            yield f"{file} does not get into the build"
    for file in ("target/release/tessera", ".git/config", "tests/fixtures/tiny-random/params.json"):
        if not ignored(file, rules):
            yield f"{file} gets into the build"
    if not re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.M):
        yield "it does not run as a number that is not root's"


def ignored(file, rules):
    """Whether .dockerignore leaves a file out: the last rule that fits it or a folder above decides."""
    parents = ["/".join(file.split("/")[: depth + 1]) for depth in range(file.count("/") + 1)]
    out = False
    for rule in rules:
        pattern = rule.removeprefix("!").strip("/")
        anywhere = pattern.removeprefix("**/")
        if any(fnmatch.fnmatch(parent, pattern) or fnmatch.fnmatch(parent.rpartition("/")[2], anywhere) and anywhere != pattern for parent in parents):
            out = not rule.startswith("!")
    return out


def compose(root, context):
    """It fits the compose specification, with known settings, and holds what it says."""
    text = (root / "deploy/compose/compose.yaml").read_text()
    # The specification's parser wants variables replaced, as compose does first.
    text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)
    loaded = yaml.safe_load(text)
    plain = {key: value for key, value in loaded.items() if not key.startswith("x-")}
    try:
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(plain))
    except Exception as error:  # the parser's own kind
        yield str(error)
    known = set(compose_spec.Service.model_fields) | {field.alias for field in compose_spec.Service.model_fields.values()}
    seen = {role: 0 for role in contract.ROLES}
    hosts = set(plain["services"])
    for name, service in plain["services"].items():
        for field in sorted(set(service) - known):
            yield f"{name}: the specification has no {field}"
        if service.get("hostname") != name:
            yield f"{name}: its name is not its address"
        command = service.get("command") or [""]
        if command[0] not in seen:
            continue
        role = command[0]
        seen[role] += 1
        flags, variables = context.options[role]
        for word in command:
            if word.startswith("--") and word not in flags:
                yield f"{name}: `tessera {role}` has no {word}"
        unknown = set(service["environment"]) - set().union(*(variables for _, variables in context.options.values()))
        if unknown:
            yield f"{name}: no role reads {sorted(unknown)}"
        registry = re.findall(r"[/,]([a-z0-9-]+):2379", service["environment"]["TESSERA_REGISTRY"])
        if len(registry) != 3 or set(registry) - hosts:
            yield f"{name}: etcd is {registry}"
        for mount in service["volumes"]:
            folder = (root / "deploy/compose" / mount.split(":")[0]).resolve()
            if not (folder / "params.json").is_file():
                yield f"{name}: {folder} is no model"
    if seen != {"router": 2, "coordinator": 3, "shard-worker": 5}:
        yield f"it has {seen}"


def telemetry(root, context):
    """Every metric in an expression is one that Tessera has (or etcd), and every outcome one that routers count."""
    folder = root / "deploy/telemetry"
    dashboard = json.loads((folder / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    alerts = [rule["expr"] for group in yaml.safe_load((folder / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
    if len(expressions) < 10 or len(alerts) < 5:
        yield f"only {len(expressions)} expressions and {len(alerts)} alerts"
    for expression in expressions + alerts:
        for metric in re.findall(r"\btessera_[a-z_]+", expression):
            if re.sub(r"_(bucket|count|sum)$", "", metric) not in context.metrics:
                yield f"nothing measures {metric}: {expression}"
    outcomes = set(re.findall(r'Self::\w+ => "([a-z_]+)"', (root / "router/src/metrics.rs").read_text())) | {"ok"}
    for expression in alerts:
        for values in re.findall(r'(?:outcome|reason)=~?"([a-z_|]+)"', expression):
            for value in sorted(set(values.split("|")) - outcomes):
                yield f"no request ends as {value}: {expression}"
    adapter = (folder / "prometheus-adapter.yaml").read_text()
    yaml.safe_load(adapter)
    for scaled in ("queued_tokens", "running_sequences"):
        if scaled not in adapter:
            yield f"the adapter does not serve tessera_{scaled}"


def same_alerts(root):
    """The operator's copy says the same."""
    plain = yaml.safe_load((root / "deploy/telemetry/alerts.yaml").read_text())
    copy = yaml.safe_load((root / "k8s/components/monitoring/rules.yaml").read_text())
    if copy["spec"] != plain:
        yield "k8s/components/monitoring/rules.yaml differs from deploy/telemetry/alerts.yaml"


def prometheus(root, promtool):
    """Prometheus' own word."""
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"], ["check", "config", "prometheus.yaml"]):
        program = promtool if promtool.startswith("/") else str(root / promtool)
        done = subprocess.run([program, *command], cwd=root / "deploy/telemetry", capture_output=True, text=True, timeout=TIMEOUT)
        if done.returncode:
            yield f"{' '.join(command)}: {done.stdout} {done.stderr}"
