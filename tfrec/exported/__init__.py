"""The trained models as modules that are saved as SavedModels."""

from tfrec.exported.signatures import (
    CANDIDATE_PARTS,
    AdTowerModule,
    QueryTowerModule,
    RankerModule,
)

__all__ = [
    "CANDIDATE_PARTS",
    "AdTowerModule",
    "QueryTowerModule",
    "RankerModule",
]
