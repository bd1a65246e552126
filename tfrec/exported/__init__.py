"""The trained models as modules that are saved as SavedModels."""

from tfrec.exported.candidate_scores import score_candidates
from tfrec.exported.signatures import AdTowerModule, QueryTowerModule, RankerModule

__all__ = ["AdTowerModule", "QueryTowerModule", "RankerModule", "score_candidates"]
