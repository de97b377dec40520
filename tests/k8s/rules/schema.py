"""Kubernetes' own schemas."""

from collections import Counter

import kubernetes_validate

from manifests import name


def schema(docs, context):
    """Every manifest fits the schema of its kind, with no field that the schema does not know; so an unknown kind fails."""
    for doc in docs:
        if doc["kind"] in context.foreign_kinds:
            continue
        try:
            kubernetes_validate.validate(doc, context.kubernetes, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(step) for step in error.path)
            yield f"{name(doc)}: {where}: {error.message[:300]}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{name(doc)}: Kubernetes {context.kubernetes} has no {doc['kind']} in {doc['apiVersion']}"


def names_are_unique(docs, _):
    """Two manifests of one name overwrite each other."""
    for key, count in Counter((doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"]) for doc in docs).items():
        if count > 1:
            yield f"{key}: {count} times"


RULES = [schema, names_are_unique]
