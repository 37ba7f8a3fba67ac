"""The nouns of the product, pure: names, durations, canonical JSON, spec, content, status, conditions.

Nothing here does I/O, keeps time or knows Kubernetes' client. Everything else may import it.
"""
