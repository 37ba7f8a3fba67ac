"""Config Registry: progressive delivery for configuration, native to Kubernetes."""

__version__ = "0.1.0"
