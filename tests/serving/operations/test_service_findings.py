"""Checks of a running service, against one that says what it is told."""

import pytest
import serving_fixtures

from serving import config, impressions
from serving.operations import findings, service_findings


class _Service:
    def __init__(self, **parts):
        self._parts = parts

    def bundle(self):
        return self._parts


def test_problems_that_a_service_reports_are_found(tiny_bundle):
    check = service_findings.ServiceCheck("http://127.0.0.1:1", tiny_bundle, 1.0, None, None)
    check.close()
    # Services of earlier releases have no user_store here.
    check._client = _Service(live={"problem": None}, impression_log=None)
    assert check._problems() == "none of its live updates, user store and impression log"
    check._client = _Service(
        live={"problem": "A."}, impression_log={"problem": "B."}, user_store={"problem": None}
    )
    with pytest.raises(findings.WrongError, match=r"A\. B\."):
        check._problems()


def test_a_service_that_is_still_loading_a_release_is_not_to_be_promoted(tiny_bundle):
    check = service_findings.ServiceCheck("http://127.0.0.1:1", tiny_bundle, 1.0, None, None)
    check.close()
    check._client = _Service(releases=[{"version": 7, "role": "stable"}])
    with pytest.raises(findings.WrongError, match="7 stable") as error:
        check._release_served()
    assert "is stable, and services load it within a minute: run this again" in error.value.remedy
    assert "promote" not in error.value.remedy


def test_the_requests_of_checks_are_not_logged_as_impressions(
    tiny_bundle, ranker_address, tmp_path
):
    log = impressions.ImpressionLog(tmp_path)
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address, impressions=log)
    with serving_fixtures.serve_app(service) as url:
        serving_fixtures.wait_until_ready(url)
        check = service_findings.ServiceCheck(url, tiny_bundle, 60.0, None, None)
        assert {finding.status for finding in check.look()} == {"ok"}
        ad_ids = tiny_bundle.ad_index.ad_ids([0, 1])
        assert len(check.recommend({"country": "CH"}, ad_ids).ads) == 2
        check.close()
    log.close()
    assert not list(tmp_path.iterdir())
    counted = service.metrics.render().decode().splitlines()
    assert "tfrec_answers_total" in "".join(counted)
    answers = [line for line in counted if line.startswith("tfrec_answers_total{")]
    assert {line.split()[-1] for line in answers} <= {"0.0"}


def test_the_rules_of_a_service_leave_out_no_ad_of_a_held_out_row(tiny_bundle, ranker_address):
    rules = {"caps": [{"field": "category", "max": 1}]}
    patient = config.OrchestratorConfig(default_deadline_ms=30_000, rules=rules)
    ad_ids = tiny_bundle.ad_index.ad_ids(range(40))
    with serving_fixtures.serve_app(
        serving_fixtures.make_orchestrator(tiny_bundle, ranker_address, patient)
    ) as url:
        serving_fixtures.wait_until_ready(url)
        check = service_findings.ServiceCheck(url, tiny_bundle, 60.0, None, None)
        assert len(check._client.recommend(k=40, filters={"allowed_ads": ad_ids}).ads) < 40
        assert len(check.recommend({}, ad_ids).ads) == 40
        check.close()
