"""Every pod on its own: hardened, bounded, probed, complete."""

from manifests import WORKLOADS, config, containers, name, of, pod, ports, serving, tessera


def every(docs):
    return [(workload, container) for workload in of(docs, *WORKLOADS) for container in containers(workload)]


def hardened(docs, _):
    """What the restricted profile asks for, and a root file system that cannot be written."""
    for workload in of(docs, *WORKLOADS):
        spec = pod(workload)["spec"]
        context = spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{name(workload)}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name(workload)}: has no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name(workload)}: mounts a token"
        if spec.get("enableServiceLinks") is not False:
            yield f"{name(workload)}: service links would set TESSERA_* variables"
        for shared in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(shared):
                yield f"{name(workload)}: {shared}"
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{name(workload)}: mounts the node's {volume['hostPath']}"
    for workload, container in every(docs):
        context = container.get("securityContext", {})
        strict = (context.get("allowPrivilegeEscalation"), context.get("readOnlyRootFilesystem"), context.get("privileged", False))
        if strict != (False, True, False) or context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name(workload)}: {container['name']} is not hardened"
    for namespace in of(docs, "Namespace"):
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{name(namespace)}: does not enforce the restricted profile"


def bounded(docs, _):
    """Requests and limits of both resources, and an image with a version."""
    for workload, container in every(docs):
        resources = container.get("resources", {})
        for kind in ("requests", "limits"):
            for resource in ("cpu", "memory"):
                if resource not in resources.get(kind, {}):
                    yield f"{name(workload)}: {container['name']} has no {kind} of {resource}"
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        if context_needs_tag(container["image"]) and tag in ("", "latest"):
            yield f"{name(workload)}: {container['image']} is not pinned"


def context_needs_tag(image):
    """The base says only `tessera`: the overlays say which."""
    return image != "tessera"


def probed(docs, _):
    """Three probes each, at ports and paths that are there."""
    paths = {"status": {"/healthz", "/readyz"}, "http": {"/health", "/metrics"}, "metrics": {"/livez", "/readyz"}}
    for workload, container in serving(docs):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            get = container.get(kind, {}).get("httpGet")
            where = f"{name(workload)}: {container['name']}'s {kind}"
            if get is None:
                yield f"{where} is missing"
            elif get["port"] not in ports(container):
                yield f"{where} asks port {get['port']}, which is not declared"
            elif get["path"] not in paths[get["port"].removesuffix("-1")]:
                yield f"{where} asks {get['path']}, which is not served there"
        # Being ready may depend on others; being alive must not.
        ready, live = container.get("readinessProbe"), container.get("livenessProbe")
        if ready and live and ready.get("httpGet") == live.get("httpGet"):
            yield f"{name(workload)}: {container['name']} would be restarted for not being ready"


def ports_are_those_listened_on(docs, _):
    """What the arguments say is what is declared, and no two containers of a pod share a port."""
    for workload, container, role in tessera(docs):
        said = {int(arg.rpartition(":")[2]) for arg in container["args"] if arg.partition("=")[0] in ("--listen", "--status", "--grpc", "--http")}
        if role == "shard-worker":
            grpc = next((int(arg.rpartition(":")[2]) for arg in container["args"] if arg.startswith("--listen=")), 0)
            said.add(grpc + 1000)
        declared = set(ports(container).values())
        if said != declared:
            yield f"{name(workload)}: {container['name']} declares {sorted(declared)} and listens on {sorted(said)}"
    for workload in of(docs, *WORKLOADS):
        every_port = [(key, number) for container in containers(workload) for key, number in ports(container).items()]
        for index in (0, 1):
            taken = [port[index] for port in every_port]
            if len(taken) != len(set(taken)):
                yield f"{name(workload)}: containers share a port of {taken}"


def mounts_and_references_exist(docs, _):
    """Every mount has a volume and every volume a mount; config maps and claims are there."""
    maps = {doc["metadata"]["name"] for doc in of(docs, "ConfigMap")}
    claims = {doc["metadata"]["name"] for doc in of(docs, "PersistentVolumeClaim")}
    for workload in of(docs, *WORKLOADS):
        spec = pod(workload)["spec"]
        templates = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in spec.get("volumes", [])} | templates
        mounts = {mount["name"] for container in containers(workload) for mount in container.get("volumeMounts", [])}
        if volumes != mounts:
            yield f"{name(workload)}: volumes {sorted(volumes)} are not what is mounted, {sorted(mounts)}"
        for volume in spec.get("volumes", []):
            sources = set(volume) - {"name"}
            if len(sources) != 1:
                yield f"{name(workload)}: volume {volume['name']} has the sources {sorted(sources)}"
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{name(workload)}: there is no claim {claim}"
            if volume.get("secret", {"optional": True}).get("optional") is not True:
                yield f"{name(workload)}: cannot start without the secret {volume['secret']['secretName']}"
    for workload, container in every(docs):
        for source in container.get("envFrom", []):
            if source["configMapRef"]["name"] not in maps:
                yield f"{name(workload)}: there is no config map {source['configMapRef']['name']}"


def drains_in_time(docs, _):
    """The grace period holds preStop's pause and the longest drain."""
    for workload, container, _role in tessera(docs):
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = int(config(docs, container).get("TESSERA_DRAIN_TIMEOUT", 25))
        grace = pod(workload)["spec"].get("terminationGracePeriodSeconds", 30)
        if grace < pause + drain + 10:
            yield f"{name(workload)}: is killed after {grace} s, and may take {pause} + {drain} s to drain"
        if _role == "router" and not pause:
            yield f"{name(workload)}: new connections still come while it stops"


RULES = [hardened, bounded, probed, ports_are_those_listened_on, mounts_and_references_exist, drains_in_time]
