"""Ways to break the manifests, each with the rule that must notice. A rule that notices nothing is no rule."""

import copy

import rules

CPU, GPU, TLS, IMAGES = "overlays/cpu-demo", "overlays/gpu", "base + etcd + tls + front-tls", "base + etcd-existing + image-urls"


def find(docs, kind, name):
    """One manifest; config maps have a hash at the end of their names."""
    same = [doc for doc in docs if doc["kind"] == kind]
    return next(doc for doc in same if doc["metadata"]["name"] == name or (kind == "ConfigMap" and doc["metadata"]["name"].rpartition("-")[0] == name))


def container(docs, kind, name, index=0):
    return find(docs, kind, name)["spec"]["template"]["spec"]["containers"][index]


def worker(docs, index=0):
    return container(docs, "StatefulSet", "tessera-shard-worker", index)


def router(docs):
    return container(docs, "Deployment", "tessera-router")


def settings(docs):
    return find(docs, "ConfigMap", "tessera")["data"]


def replace_arg(where, old, new):
    where["args"] = [arg.replace(old, new) for arg in where["args"]]


def spec(docs, kind, name):
    return find(docs, kind, name)["spec"]


def pod(docs, kind, name):
    return spec(docs, kind, name)["template"]["spec"]


# (what is broken, where, how, who notices)
MUTATIONS = [
    ("an unknown kind", CPU, lambda d: d.append({"apiVersion": "tessera/v1", "kind": "Cluster", "metadata": {"name": "x"}}), "schema"),
    ("a kind of another version", CPU, lambda d: find(d, "PodDisruptionBudget", "tessera-router").update(apiVersion="policy/v1beta1"), "schema"),
    ("a misspelt field", CPU, lambda d: pod(d, "Deployment", "tessera-router").update(terminationGraceSeconds=5), "schema"),
    ("a wrong type", CPU, lambda d: spec(d, "Deployment", "tessera-router").update(replicas="two"), "schema"),
    ("one name twice", CPU, lambda d: d.append(copy.deepcopy(find(d, "Service", "tessera-router"))), "names_are_unique"),
    ("root", CPU, lambda d: pod(d, "StatefulSet", "tessera-etcd")["securityContext"].pop("runAsNonRoot"), "hardened"),
    ("a capability", CPU, lambda d: router(d)["securityContext"].update(capabilities={"add": ["NET_ADMIN"]}), "hardened"),
    ("the node's IPC", GPU, lambda d: pod(d, "StatefulSet", "tessera-shard-worker").update(hostIPC=True), "hardened"),
    ("a token", CPU, lambda d: pod(d, "Deployment", "tessera-coordinator").pop("automountServiceAccountToken"), "hardened"),
    ("service links", CPU, lambda d: pod(d, "Deployment", "tessera-coordinator").pop("enableServiceLinks"), "hardened"),
    ("a lax namespace", GPU, lambda d: find(d, "Namespace", "tessera")["metadata"].pop("labels"), "hardened"),
    ("no memory limit", CPU, lambda d: worker(d)["resources"]["limits"].pop("memory"), "bounded"),
    ("an image of any version", GPU, lambda d: router(d).update(image="registry.example/tessera:latest"), "bounded"),
    ("no startup probe", CPU, lambda d: worker(d).pop("startupProbe"), "probed"),
    ("a probe of an undeclared port", CPU, lambda d: worker(d)["livenessProbe"]["httpGet"].update(port="http"), "probed"),
    ("a probe of a path that is not served", CPU, lambda d: worker(d)["readinessProbe"]["httpGet"].update(path="/ready"), "probed"),
    ("liveness that asks for readiness", CPU, lambda d: router(d)["livenessProbe"]["httpGet"].update(path="/health"), "probed"),
    ("a port that nobody listens on", CPU, lambda d: worker(d)["ports"][0].update(containerPort=7070), "ports_are_those_listened_on"),
    ("two workers on one port", GPU, lambda d: replace_arg(worker(d, 1), ":7073", ":7072"), "ports_are_those_listened_on"),
    ("a mount without a volume", CPU, lambda d: worker(d)["volumeMounts"].append({"name": "x", "mountPath": "/x"}), "mounts_and_references_exist"),
    ("a claim that is not there", GPU, lambda d: d.remove(find(d, "PersistentVolumeClaim", "tessera-model")), "mounts_and_references_exist"),
    ("a config map that is not there", CPU, lambda d: find(d, "ConfigMap", "tessera")["metadata"].update(name="tessera"), "mounts_and_references_exist"),
    ("too short a grace", CPU, lambda d: pod(d, "StatefulSet", "tessera-shard-worker").update(terminationGracePeriodSeconds=30), "drains_in_time"),
    ("too long a drain", CPU, lambda d: settings(d).update(TESSERA_DRAIN_TIMEOUT="600"), "drains_in_time"),
    ("no pause before a router stops", CPU, lambda d: router(d).pop("lifecycle"), "drains_in_time"),
    ("an option that does not exist", CPU, lambda d: worker(d)["args"].append("--rank=0"), "options_exist"),
    ("another role's option", CPU, lambda d: router(d)["args"].append("--tp=2"), "options_exist"),
    ("a setting that nobody reads", CPU, lambda d: settings(d).update(TESSERA_DEGREE="2"), "options_exist"),
    ("no registry", CPU, lambda d: settings(d).pop("TESSERA_REGISTRY"), "settings_suffice"),
    ("etcd's address by http", CPU, lambda d: settings(d).update(TESSERA_REGISTRY="http://tessera-etcd:2379"), "settings_suffice"),
    ("TLS without an authority", TLS, lambda d: settings(d).pop("TESSERA_REGISTRY_CA"), "settings_suffice"),
    ("a certificate that is not mounted", TLS, lambda d: settings(d).update(TESSERA_TLS_CERT="/etc/ssl/tls.crt"), "files_are_mounted"),
    ("a model that is not mounted", GPU, lambda d: settings(d).update(TESSERA_MODEL="/data/pixtral"), "files_are_mounted"),
    ("a variable that is not defined", CPU, lambda d: worker(d)["env"].pop(0), "expansions_are_defined"),
    ("two workers of one name", GPU, lambda d: replace_arg(worker(d, 1), "--id=$(POD_NAME)-1", "--id=$(POD_NAME)"), "identities_differ"),
    ("another's address", GPU, lambda d: replace_arg(worker(d, 1), "svc:7073", "svc:7072"), "identities_differ"),
    ("an address that no certificate bears", CPU, lambda d: settings(d).update(TESSERA_TLS_CERT="/etc/tessera/tls/tls.crt"), "identities_differ"),
    ("a name in no service", CPU, lambda d: replace_arg(worker(d), ".tessera-shard-worker.", ".workers."), "identities_differ"),
    ("a budget for nobody", CPU, lambda d: spec(d, "PodDisruptionBudget", "tessera-router")["selector"]["matchLabels"].update(x="y"), "selectors_select"),
    ("a policy for nobody", CPU, lambda d: spec(d, "NetworkPolicy", "tessera-router")["podSelector"]["matchLabels"].update(x="y"), "selectors_select"),
    ("others' pods", CPU, lambda d: spec(d, "Deployment", "tessera-router")["selector"].update(matchLabels={"app.kubernetes.io/name": "tessera"}), "selectors_select"),
    ("a service for nobody", CPU, lambda d: spec(d, "Service", "tessera-router")["selector"].update(x="y"), "services_lead_somewhere"),
    ("a service's port that leads nowhere", CPU, lambda d: spec(d, "Service", "tessera-router")["ports"][0].update(targetPort="status"), "services_lead_somewhere"),
    ("names only when ready", CPU, lambda d: spec(d, "Service", "tessera-etcd").pop("publishNotReadyAddresses"), "services_lead_somewhere"),
    ("no protocol", CPU, lambda d: spec(d, "Service", "tessera-router")["ports"][0].pop("appProtocol"), "services_lead_somewhere"),
    ("no budget", CPU, lambda d: d.remove(find(d, "PodDisruptionBudget", "tessera-etcd")), "budgets_cover"),
    ("a scaler of nothing", GPU, lambda d: spec(d, "HorizontalPodAutoscaler", "tessera-router")["scaleTargetRef"].update(name="router"), "scalers_scale"),
    ("a metric that nobody measures", GPU, lambda d: spec(d, "HorizontalPodAutoscaler", "tessera-shard-worker")["metrics"][0]["external"]["metric"].update(name="tessera_queue"), "scalers_scale"),
    ("a number that undoes scaling", GPU, lambda d: spec(d, "StatefulSet", "tessera-shard-worker").update(replicas=3), "scalers_scale"),
    ("no default to deny", CPU, lambda d: d.remove(find(d, "NetworkPolicy", "tessera-default-deny")), "connections"),
    ("no DNS", CPU, lambda d: d.remove(find(d, "NetworkPolicy", "tessera-dns")), "connections"),
    ("routers that reach no coordinator", CPU, lambda d: spec(d, "NetworkPolicy", "tessera-router").pop("egress"), "connections"),
    ("workers open to all", CPU, lambda d: spec(d, "NetworkPolicy", "tessera-shard-worker")["ingress"][0].pop("from"), "connections"),
    ("second ranks shut", "base + etcd + workers-share-host + autoscale", lambda d: spec(d, "NetworkPolicy", "tessera-shard-worker")["ingress"][1]["ports"][0].pop("endPort"), "connections"),
    ("etcd open to all pods", CPU, lambda d: spec(d, "NetworkPolicy", "tessera-etcd")["ingress"][0].update({"from": [{"podSelector": {}}]}), "connections"),
    ("routers that reach the cloud's metadata", IMAGES, lambda d: spec(d, "NetworkPolicy", "tessera-router-image-urls")["egress"][0]["to"][0]["ipBlock"].pop("except"), "connections"),
    ("no spare worker", CPU, lambda d: spec(d, "StatefulSet", "tessera-shard-worker").update(replicas=4), "spares_are_there"),
    ("no spare coordinator", GPU, lambda d: spec(d, "Deployment", "tessera-coordinator").update(replicas=5), "spares_are_there"),
    ("pods that are no replicas", GPU, lambda d: settings(d).update(TESSERA_TP="4"), "spares_are_there"),
    ("two members of etcd", CPU, lambda d: spec(d, "StatefulSet", "tessera-etcd").update(replicas=2), "spares_are_there"),
    ("a cache beyond the limit", CPU, lambda d: settings(d).update(TESSERA_KV_MEMORY="2GiB"), "memory_fits"),
    ("shared memory on disk", GPU, lambda d: next(v for v in pod(d, "StatefulSet", "tessera-shard-worker")["volumes"] if v["name"] == "shm").update(emptyDir={}), "memory_fits"),
    ("a rank without a GPU", GPU, lambda d: worker(d, 1)["resources"]["limits"].pop("nvidia.com/gpu"), "gpus_are_one_each"),
]


def noticed(rendered, context):
    """A result for each mutation, and one for the rules that none is for."""
    results, named = [], {rule.__name__: rule for rule in rules.ALL}
    for what, where, mutate, rule in MUTATIONS:
        docs = copy.deepcopy(rendered[where])
        mutate(docs)
        before, after = (set(rules.found(named[rule], manifests, context)) for manifests in (rendered[where], docs))
        results.append((f"{rule} notices {what}", [] if after - before else ["it does not"]))
    untested = named.keys() - {rule for *_, rule in MUTATIONS}
    return results + [("every rule has been seen to notice", sorted(untested))]
