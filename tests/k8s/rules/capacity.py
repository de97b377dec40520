"""Enough of everything, spares included."""

import re

from manifests import component, config, containers, name, of, pod, tessera

UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "": 1}


def size(text):
    """Bytes, of Kubernetes' units or Tessera's."""
    number, unit = re.fullmatch(r"(\d+)(\w*)", str(text)).groups()
    return int(number) * UNITS[unit]


def bounds(docs, workload):
    """The least and the most pods of a workload."""
    for scaler in of(docs, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) == (workload["kind"], workload["metadata"]["name"]):
            return scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]
    replicas = workload["spec"].get("replicas", 1)
    return replicas, replicas


def spares_are_there(docs, _):
    """Workers for two replicas and one to spare; a coordinator for all that workers can make, and one; two routers."""
    by_role = {component(workload): workload for workload in of(docs, "Deployment", "StatefulSet")}
    workers, coordinators, routers = (by_role.get(role) for role in ("shard-worker", "coordinator", "router"))
    if not (workers and coordinators and routers):
        yield "a role is missing"
        return
    tp = int(config(docs, containers(coordinators, False)[0]).get("TESSERA_TP", 1))
    a_pod = len(containers(workers, False))
    least, most = (pods * a_pod for pods in bounds(docs, workers))
    if least < 2 * tp + 1:
        yield f"{name(workers)}: {least} workers do not make two replicas of tp {tp} and a spare"
    if a_pod > 1 and a_pod != tp:
        yield f"{name(workers)}: a pod holds {a_pod} workers, and a replica has {tp}"
    if bounds(docs, coordinators)[0] < most // tp + 1:
        yield f"{name(coordinators)}: {bounds(docs, coordinators)[0]} are too few for {most // tp} replicas and a spare"
    if bounds(docs, routers)[0] < 2:
        yield f"{name(routers)}: one router is none while it restarts"
    etcd = by_role.get("etcd")
    if etcd and etcd["spec"]["replicas"] % 2 == 0:
        yield f"{name(etcd)}: an even number of members stands no more losses than one less"
    if etcd and etcd["spec"]["replicas"] < 3:
        yield f"{name(etcd)}: no member may be lost"


def memory_fits(docs, _):
    """Shared memory is memory, bounded, and with the cache on CPUs it fits the limit."""
    for workload, container, role in tessera(docs):
        if role != "shard-worker":
            continue
        mount = next((mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"), None)
        volume = next((volume for volume in pod(workload)["spec"]["volumes"] if volume["name"] == mount), {})
        shared = volume.get("emptyDir", {})
        if shared.get("medium") != "Memory" or "sizeLimit" not in shared:
            yield f"{name(workload)}: {container['name']} has no bounded shared memory"
            continue
        settings, limit = config(docs, container), size(container["resources"]["limits"]["memory"])
        cache = size(settings["TESSERA_KV_MEMORY"]) if settings.get("TESSERA_DEVICE") == "cpu" and "TESSERA_KV_MEMORY" in settings else 0
        if size(shared["sizeLimit"]) + cache > limit // 2:
            yield f"{name(workload)}: shared memory and cache leave {container['name']} less than half of its {limit} bytes"


def gpus_are_one_each(docs, _):
    """A rank is a process with a GPU; on CPUs none is asked for."""
    for workload, container, role in tessera(docs):
        asked = container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0)
        wanted = 1 if role == "shard-worker" and config(docs, container).get("TESSERA_DEVICE") == "cuda" else 0
        if int(asked) != wanted:
            yield f"{name(workload)}: {container['name']} asks for {asked} GPUs, not {wanted}"


RULES = [spares_are_there, memory_fits, gpus_are_one_each]
