"""Metrics of a head on the validation split, as `tfrec.ranking.measure_heads` returns them."""

FEW = {"labeled": 40, "positives": 0}


def figures(**changed):
    """A head with 10,000 rows, a rate of 0.2, and ordinary figures."""
    return {
        "labeled": 10_000,
        "positives": 2_000,
        "base_rate": 0.2,
        "mean_label": 0.2,
        "normalized_entropy": 0.9,
        "normalized_entropy_error": 0.005,
        "calibration_ratio": 1.0,
        "calibration_ratio_error": 0.02,
        "expected_calibration_error": 0.012,
        "expected_calibration_error_of_chance": 0.012,
        **changed,
    }
