"""Which options and variables each role knows: from its own help where there is a binary, else as documented."""

import re
import subprocess

from manifests import ROLES

# Read by every role apart from its options.
TELEMETRY = {"TESSERA_LOG", "TESSERA_LOG_FORMAT"}
REGISTRY = "registry registry-user registry-password-file registry-ca registry-cert registry-key registry-lease"
PEERS = "tls-ca tls-cert tls-key drain-timeout"
MODEL = "model load-format served-model-name"
DOCUMENTED = {
    "router": f"{REGISTRY} {PEERS} {MODEL} grpc http max-connections image-memory allow-image-urls api-key-file front-tls-cert front-tls-key",
    "coordinator": f"{REGISTRY} {PEERS} {MODEL} tp elastic dtype vision-parallel max-context max-sequences step-tokens queue listen advertise id status",
    "shard-worker": f"{REGISTRY} {PEERS} device threads kv-memory listen advertise id status",
}


def options(binary=None):
    """{role: (its flags, its variables)}"""
    return {role: (of_help(binary, role) if binary else documented(role)) for role in ROLES}


def documented(role):
    """As README and the issue have it."""
    names = DOCUMENTED[role].split()
    return {f"--{name}" for name in names}, {"TESSERA_" + name.replace("-", "_").upper() for name in names} | TELEMETRY


def of_help(binary, role):
    """As the binary itself says."""
    text = subprocess.run([binary, role, "--help"], capture_output=True, text=True, timeout=20, check=True).stdout
    return set(re.findall(r"^\s+(?:-\w, )?(--[a-z][a-z-]*)", text, re.M)), set(re.findall(r"\[env:\s+(TESSERA_[A-Z_]+)", text)) | TELEMETRY
