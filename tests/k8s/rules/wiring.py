"""What refers to what: selectors, services, budgets, scalers."""

from manifests import containers, labels, matches, name, of, pod, ports


def selectors_select(docs, _):
    """Workloads select their own pods and no others'; budgets, services and policies select somebody."""
    workloads = of(docs, "Deployment", "StatefulSet", "Job")
    for workload in of(docs, "Deployment", "StatefulSet"):
        selected = [name(other) for other in workloads if matches(workload["spec"]["selector"], labels(other))]
        if selected != [name(workload)]:
            yield f"{name(workload)}: its selector selects {selected}"
        for spread in pod(workload)["spec"].get("topologySpreadConstraints", []):
            if not matches(spread["labelSelector"], labels(workload)):
                yield f"{name(workload)}: is spread against others' pods"
    for doc in of(docs, "PodDisruptionBudget", "NetworkPolicy"):
        selector = doc["spec"].get("selector") or doc["spec"].get("podSelector")
        if not any(matches(selector if selector is not None else {}, labels(workload)) for workload in workloads):
            yield f"{name(doc)}: selects nothing"


def services_lead_somewhere(docs, _):
    """A service selects one workload, and its ports are declared there; a StatefulSet's own is headless."""
    workloads = of(docs, "Deployment", "StatefulSet")
    for service in of(docs, "Service"):
        selected = [workload for workload in workloads if matches({"matchLabels": service["spec"]["selector"]}, labels(workload))]
        if len(selected) != 1:
            yield f"{name(service)}: selects {[name(workload) for workload in selected]}"
        for workload in selected:
            declared = {key: number for container in containers(workload, False) for key, number in ports(container).items()}
            for port in service["spec"]["ports"]:
                if declared.get(port["targetPort"]) != port["port"]:
                    yield f"{name(service)}: port {port['port']} leads to {port['targetPort']}, which is {declared.get(port['targetPort'])}"
    services = {service["metadata"]["name"]: service for service in of(docs, "Service")}
    for workload in of(docs, "StatefulSet"):
        service = services.get(workload["spec"]["serviceName"])
        if service is None or service["spec"].get("clusterIP") != "None" or not service["spec"].get("publishNotReadyAddresses"):
            yield f"{name(workload)}: its pods have no names until they are ready"
    router = services.get("tessera-router", {"spec": {"ports": []}})
    if {port["name"] for port in router["spec"]["ports"] if port.get("appProtocol")} != {"grpc", "http"}:
        yield "Service/tessera-router: does not say what gRPC and HTTP are"


def budgets_cover(docs, _):
    """Every workload has one budget, which lets one pod go at a time."""
    for workload in of(docs, "Deployment", "StatefulSet"):
        found = [doc for doc in of(docs, "PodDisruptionBudget") if matches(doc["spec"]["selector"], labels(workload))]
        if len(found) != 1 or found[0]["spec"].get("maxUnavailable") != 1:
            yield f"{name(workload)}: has {len(found)} budgets that let one go at a time"


def scalers_scale(docs, context):
    """A scaler's target exists and has no fixed number; what it looks at is measured."""
    workloads = {(workload["kind"], workload["metadata"]["name"]): workload for workload in of(docs, "Deployment", "StatefulSet")}
    for scaler in of(docs, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        workload = workloads.get((target["kind"], target["name"]))
        if workload is None:
            yield f"{name(scaler)}: there is no {target['kind']} {target['name']}"
        elif "replicas" in workload["spec"]:
            yield f"{name(scaler)}: an apply would undo it"
        for metric in scaler["spec"]["metrics"]:
            measured = metric.get("external", metric.get("pods", {})).get("metric", {}).get("name")
            if measured is not None and measured not in context.metrics:
                yield f"{name(scaler)}: nothing measures {measured}"


RULES = [selectors_select, services_lead_somewhere, budgets_cover, scalers_scale]
