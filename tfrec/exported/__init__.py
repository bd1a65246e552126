"""The trained models as modules that are saved as SavedModels."""

from tfrec.exported.signatures import (
    AdTowerModule,
    QueryTowerModule,
    RankerModule,
)

__all__ = [
    "AdTowerModule",
    "QueryTowerModule",
    "RankerModule",
]
