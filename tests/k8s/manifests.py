"""What a set of rendered manifests holds, by what one wants to know of it."""

WORKLOADS = ("Deployment", "StatefulSet", "Job")
ROLES = ("router", "coordinator", "shard-worker")


def name(doc):
    """`Kind/name`, as messages call it."""
    return f"{doc['kind']}/{doc['metadata']['name']}"


def of(docs, *kinds):
    """The manifests of some kinds."""
    return [doc for doc in docs if doc["kind"] in kinds]


def pod(workload):
    """A workload's pod template."""
    return workload["spec"]["template"]


def labels(workload):
    """The labels of a workload's pods."""
    return pod(workload)["metadata"].get("labels", {})


def component(workload):
    """What a workload's pods are: a role, etcd, ..."""
    return labels(workload).get("app.kubernetes.io/component")


def containers(workload, initial=True):
    """A workload's containers."""
    spec = pod(workload)["spec"]
    return (spec.get("initContainers", []) if initial else []) + spec["containers"]


def serving(docs):
    """(workload, container) of everything that serves, jobs and initial containers aside."""
    return [(workload, container) for workload in of(docs, "Deployment", "StatefulSet") for container in containers(workload, False)]


def tessera(docs):
    """(workload, container, role) of every container that runs a role."""
    found = ((workload, container, (container.get("args") or [""])[0]) for workload, container in serving(docs))
    return [(workload, container, role) for workload, container, role in found if role in ROLES]


def config(docs, container):
    """What a container's config maps and plain variables set."""
    maps = {doc["metadata"]["name"]: doc.get("data", {}) for doc in of(docs, "ConfigMap")}
    settings = {}
    for source in container.get("envFrom", []):
        settings |= maps.get(source.get("configMapRef", {}).get("name"), {})
    return settings | {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}


def ports(container):
    """A container's ports: number by name."""
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def matches(selector, with_labels):
    """Whether a label selector selects; None selects nothing, an empty one everything."""
    if selector is None:
        return False
    if any(with_labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or []:
        value, values = with_labels.get(term["key"]), term.get("values", [])
        holds = {"In": value in values, "NotIn": value not in values, "Exists": value is not None, "DoesNotExist": value is None}
        if not holds[term["operator"]]:
            return False
    return True
