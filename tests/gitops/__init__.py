"""What GitOps tools do with our objects and say of them, by those tools' own code (`judge/`)."""

from .flux import FluxError, flux_apply
from .judging import Judgement, Judges, Verdict

__all__ = ["FluxError", "Judgement", "Judges", "Verdict", "flux_apply"]
