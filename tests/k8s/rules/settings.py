"""Options, variables and files that the roles are given."""

import re

from manifests import config, containers, name, of, tessera

# Files that a setting names must come from a mount.
FILE = re.compile(r"_(CA|CERT|KEY|FILE)$")


def options_exist(docs, context):
    """No option that the role does not know, nor a shared variable that no role knows."""
    known_by_any = set().union(*(variables for _, variables in context.options.values()))
    for workload, container, role in tessera(docs):
        flags, variables = context.options[role]
        for arg in container["args"][1:]:
            if arg.partition("=")[0] not in flags:
                yield f"{name(workload)}: `tessera {role}` has no {arg}"
        for variable in container.get("env", []):
            if variable["name"].startswith("TESSERA_") and variable["name"] not in variables:
                yield f"{name(workload)}: `tessera {role}` does not read {variable['name']}"
        for setting in config(docs, container):
            if setting.startswith("TESSERA_") and setting not in known_by_any:
                yield f"{name(workload)}: no role reads {setting}"


def settings_suffice(docs, _):
    """Every role is told the registry, and what else it cannot do without."""
    needed = {
        "router": {"TESSERA_REGISTRY", "TESSERA_MODEL"},
        "coordinator": {"TESSERA_REGISTRY", "TESSERA_MODEL", "TESSERA_TP"},
        "shard-worker": {"TESSERA_REGISTRY", "TESSERA_DEVICE", "TESSERA_KV_MEMORY"},
    }
    for workload, container, role in tessera(docs):
        settings = config(docs, container)
        for setting in sorted(needed[role] - settings.keys()):
            yield f"{name(workload)}: {setting} is not set"
        if not re.fullmatch(r"etcds?://[^/:,]+:\d+(,[^/:,]+:\d+)*", settings.get("TESSERA_REGISTRY", "")):
            yield f"{name(workload)}: TESSERA_REGISTRY is {settings.get('TESSERA_REGISTRY')}"
        by_tls = settings.get("TESSERA_REGISTRY", "").startswith("etcds:")
        if by_tls != ("TESSERA_REGISTRY_CA" in settings):
            yield f"{name(workload)}: TLS to etcd is half set"


def files_are_mounted(docs, _):
    """A file that a setting names lies below a mount, and so does the model unless it is in the image."""
    for workload, container, _role in tessera(docs):
        mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        for setting, value in config(docs, container).items():
            named = setting == "TESSERA_MODEL" and not value.startswith("/usr/share/tessera/")
            # The front door is the router's alone.
            if setting.startswith("TESSERA_FRONT_") and _role != "router":
                continue
            if setting.startswith("TESSERA_") and (FILE.search(setting) or named):
                if not any(value.startswith(f"{mount}/") for mount in mounts):
                    yield f"{name(workload)}: {container['name']} has no mount that holds {setting}={value}"


def expansions_are_defined(docs, _):
    """$(NAME) in an argument or a variable stands for a variable that was defined before it."""
    for workload in of(docs, "Deployment", "StatefulSet", "Job"):
        for container in containers(workload):
            defined = set()
            for variable in container.get("env", []):
                for used in re.findall(r"\$\(([A-Z_]+)\)", variable.get("value", "")):
                    if used not in defined:
                        yield f"{name(workload)}: {variable['name']} uses {used}, which is not defined before"
                defined.add(variable["name"])
            for arg in container.get("args", []):
                for used in re.findall(r"\$\(([A-Z_]+)\)", arg):
                    if used not in defined:
                        yield f"{name(workload)}: {arg} uses {used}, which is not defined"


def identities_differ(docs, _):
    """No two containers of a pod register under one id, and an advertised address is one that is listened on."""
    for workload in of(docs, "Deployment", "StatefulSet"):
        ids = [arg for container in containers(workload) for arg in container.get("args", []) if arg.startswith("--id=")]
        if len(ids) != len(set(ids)):
            yield f"{name(workload)}: {ids} are not different"
    for workload, container, role in tessera(docs):
        said = dict(arg.split("=", 1) for arg in container["args"] if "=" in arg)
        if role != "router" and said.get("--advertise", "").rpartition(":")[2] != said.get("--listen", ":?").rpartition(":")[2]:
            yield f"{name(workload)}: advertises {said.get('--advertise')} and listens on {said.get('--listen')}"
        if "TESSERA_TLS_CERT" in config(docs, container) and "POD_IP" in said.get("--advertise", ""):
            yield f"{name(workload)}: no certificate can bear the address {said['--advertise']}"
        service = workload["spec"].get("serviceName")
        if service and not said["--advertise"].startswith(f"$(POD_NAME).{service}."):
            yield f"{name(workload)}: {said['--advertise']} is not its name in the service {service}"


RULES = [options_exist, settings_suffice, files_are_mounted, expansions_are_defined, identities_differ]
