"""Who can reach whom, worked out from the network policies as Kubernetes defines them, against who should."""

import ipaddress
from dataclasses import dataclass, field

from manifests import component, labels, matches, of, ports, tessera


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod of this namespace, one of another, or an address outside."""

    name: str
    labels: dict = field(default_factory=dict)
    namespace: dict | None = None  # labels of another namespace
    address: str | None = None

    @property
    def here(self):
        return self.namespace is None and self.address is None


def permits(rules, key, other, port, protocol):
    """Whether one of a policy's rules lets the other end through at the port."""
    for rule in rules or []:
        if rule.get("ports") and not any(
            entry.get("protocol", "TCP") == protocol
            and (entry.get("port") is None or entry["port"] <= port <= entry.get("endPort", entry["port"]))
            for entry in rule["ports"]
        ):
            continue
        if not rule.get(key) or any(is_peer(peer, other) for peer in rule[key]):
            return True
    return False


def is_peer(peer, other):
    if "ipBlock" in peer:
        if other.address is None:
            return False
        address, block = ipaddress.ip_address(other.address), peer["ipBlock"]
        inside = lambda cidr: address in ipaddress.ip_network(cidr)  # noqa: E731
        return inside(block["cidr"]) and not any(inside(cidr) for cidr in block.get("except", []))
    if other.address is not None:
        return False
    if "namespaceSelector" in peer:
        in_namespace = matches(peer["namespaceSelector"], other.namespace or {})
        return in_namespace and matches(peer.get("podSelector", {}), other.labels)
    return other.here and matches(peer["podSelector"], other.labels)


def reaches(policies, source, target, port, protocol="TCP"):
    """Whether a connection is let through, at both ends that are in this namespace."""
    for end, other, direction, key in ((source, target, "Egress", "to"), (target, source, "Ingress", "from")):
        if not end.here:
            continue
        applying = [p for p in policies if direction in p["spec"].get("policyTypes", ["Ingress"]) and matches(p["spec"]["podSelector"], end.labels)]
        if applying and not any(permits(p["spec"].get(direction.lower()), key, other, port, protocol) for p in applying):
            return False
    return True


def connections(docs, _):
    """What must reach what does, and nothing else of what is tried."""
    policies = of(docs, "NetworkPolicy")
    ends = {component(workload): End(component(workload), labels(workload)) for workload in of(docs, "Deployment", "StatefulSet", "Job")}
    client = End("a client's pod", {"tessera-client": "true"})
    clients = End("a client's namespace", {}, {"tessera-client": "true"})
    stranger, strangers = End("a stranger's pod", {"app": "x"}), End("a stranger's namespace", {}, {"team": "x"})
    scraper = End("Prometheus", {}, {"tessera-metrics": "true"})
    dns, internet, private = End("DNS", {}, {"kubernetes.io/metadata.name": "kube-system"}), End("the internet", address="93.184.216.34"), End("a private address", address="10.1.2.3")
    metadata = End("the cloud's metadata", address="169.254.169.254")
    router, coordinator, worker = ends["router"], ends["coordinator"], ends["shard-worker"]

    at = {role: [] for role in ("router", "coordinator", "shard-worker")}
    for _workload, container, role in tessera(docs):
        at[role] += [(key.removesuffix("-1"), number) for key, number in ports(container).items()]
    open_ = [(end, router, number) for end in (client, clients) for _key, number in at["router"]]
    open_ += [(router, coordinator, 7071), (scraper, router, 8080), (scraper, coordinator, 9071)]
    for key, number in at["shard-worker"]:
        open_ += [({"grpc": coordinator, "collective": worker, "status": scraper}[key], worker, number)]
    shut = [(end, target, number) for end in (stranger, strangers) for target, number in ((router, 7070), (router, 8080), (coordinator, 7071), (worker, 7072), (worker, 8072))]
    shut += [(client, coordinator, 7071), (client, worker, 7072), (router, worker, 7072), (worker, router, 8080), (coordinator, worker, 8072)]
    shut += [(worker, coordinator, 7071), (worker, internet, 443), (coordinator, internet, 443), (router, private, 443), (router, metadata, 80)]
    # What gets no policy of its own stays shut.
    fresh = End("a new part", {"app.kubernetes.io/name": "tessera", "app.kubernetes.io/component": "new"})
    shut += [(stranger, fresh, 7070), (fresh, internet, 443), (fresh, worker, 7072)]
    for role in (router, coordinator, worker):
        if "etcd" in ends:
            etcd = ends["etcd"]
            open_ += [(role, etcd, 2379), (etcd, etcd, 2380), (scraper, etcd, 2381)]
            shut += [(role, etcd, 2380), (client, etcd, 2379), (stranger, etcd, 2379), (strangers, etcd, 2379), (etcd, worker, 7072), (etcd, internet, 443)]
        else:
            open_ += [(role, End("an etcd elsewhere", address="10.9.9.9"), 2379)]
    images = any(doc["data"].get("TESSERA_ALLOW_IMAGE_URLS") == "true" for doc in of(docs, "ConfigMap"))
    (open_ if images else shut).append((router, internet, 443))
    if "model-download" in ends:
        open_.append((ends["model-download"], internet, 443))
        shut.append((ends["model-download"], ends.get("etcd", worker), 2379))

    for source, target, port in open_:
        if not reaches(policies, source, target, port):
            yield f"{source.name} cannot reach {target.name} at {port}"
    for source, target, port in shut:
        if reaches(policies, source, target, port):
            yield f"{source.name} reaches {target.name} at {port}"
    for end in ends.values():
        for protocol in ("UDP", "TCP"):
            if not reaches(policies, end, dns, 53, protocol):
                yield f"{end.name} cannot ask DNS by {protocol}"


RULES = [connections]
