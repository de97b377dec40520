"""What manifests must satisfy. Each rule takes the manifests and the context and returns problems, in words."""

from . import capacity, network, pods, schema, settings, wiring

ALL = [rule for module in (schema, pods, settings, wiring, network, capacity) for rule in module.RULES]


def problems(docs, context):
    """Every problem, with the rule that found it."""
    return [(rule.__name__, problem) for rule in ALL for problem in found(rule, docs, context)]


def found(rule, docs, context):
    """One rule's problems; that a manifest lacks what the rule reads is one too."""
    try:
        return list(rule(docs, context))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        return [f"cannot be judged: {type(error).__name__} {error}"]
