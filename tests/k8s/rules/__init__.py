"""What manifests must satisfy. Each rule takes the manifests and the context and returns problems, in words."""

from . import capacity, network, pods, schema, settings, wiring

ALL = [rule for module in (schema, pods, settings, wiring, network, capacity) for rule in module.RULES]


def problems(docs, context):
    """Every problem, with the rule that found it."""
    return [(rule.__name__, problem) for rule in ALL for problem in rule(docs, context)]
