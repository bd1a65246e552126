"""Release bundles: the parts of version N, and which version serves."""

from serving.manifest import versions
from serving.releases.ads_table import ad_ids, describe_missing_ads
from serving.releases.assembly import ReleaseInputs, assemble
from serving.releases.bundle import Bundle, current_pointer, latest, load, stable
from serving.releases.changes import (
    end_canary,
    list_releases,
    promote,
    prune,
    roll_back,
    start_canary,
)
from serving.releases.model_publishing import publish_models
from serving.releases.models import AdTower, QueryTower, RankerModel
from serving.releases.pointer import Pointer, read_pointer
from serving.releases.probes import (
    SCORE_TOLERANCE,
    TOLERANCE,
    candidate_rows,
    check_ad_tower,
    check_scores,
    query_columns,
)
from serving.releases.publishing import Staged, publish
from serving.releases.release_copy import copy_release

__all__ = [
    "SCORE_TOLERANCE",
    "TOLERANCE",
    "AdTower",
    "Bundle",
    "Pointer",
    "QueryTower",
    "RankerModel",
    "ReleaseInputs",
    "Staged",
    "ad_ids",
    "assemble",
    "candidate_rows",
    "check_ad_tower",
    "check_scores",
    "copy_release",
    "current_pointer",
    "describe_missing_ads",
    "end_canary",
    "latest",
    "list_releases",
    "load",
    "promote",
    "prune",
    "publish",
    "publish_models",
    "query_columns",
    "read_pointer",
    "roll_back",
    "stable",
    "start_canary",
    "versions",
]
