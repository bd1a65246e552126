"""The deployment files, as far as they can be checked without a container engine."""

import ast
import functools
import http.server
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import threading
import types
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
import yaml
from absl import flags
from packaging import requirements as package_requirements
from repository import ROOT as _ROOT
from requirements import KUSTOMIZE, NEEDS_KUSTOMIZE

import tfrec
from serving import config, model_config, model_server, orchestrator, ranker, releases
from serving.cli import entry

_DEPLOY = _ROOT / "serving" / "deploy"
_KUBERNETES = sorted((_DEPLOY / "kubernetes").glob("*.yaml"))
_WORKLOADS = ("tensorflow-serving", "orchestrator")


@functools.cache
def _yaml(name: str) -> Any:
    return yaml.safe_load((_DEPLOY / name).read_text(encoding="utf-8"))


@functools.cache
def _objects() -> list[dict[str, Any]]:
    texts = (path.read_text(encoding="utf-8") for path in _KUBERNETES)
    return [item for text in texts for item in yaml.safe_load_all(text)]


def _object(kind: str, name: str) -> dict[str, Any]:
    found = [
        item for item in _objects() if (item["kind"], item["metadata"]["name"]) == (kind, name)
    ]
    assert len(found) == 1, f"{kind} {name}"
    return found[0]


def _container(name: str) -> dict[str, Any]:
    containers = _object("Deployment", name)["spec"]["template"]["spec"]["containers"]
    return next(item for item in containers if item["name"] == name)


def _all_containers() -> list[dict[str, Any]]:
    pods = [_object("Deployment", name)["spec"]["template"]["spec"] for name in _WORKLOADS]
    return [
        item
        for pod in pods
        for kind in ("initContainers", "containers")
        for item in pod.get(kind, [])
    ]


def _commands() -> dict[str, list[str]]:
    """The model server's arguments in each file that starts it."""
    return {
        "compose": _yaml("compose.yaml")["services"]["tensorflow-serving"]["command"],
        "kubernetes": _container("tensorflow-serving")["args"],
    }


@pytest.fixture
def flags_of(script: Callable[[str], types.ModuleType]) -> Callable[[str], set[str]]:
    """Returns the names of the flags of a command."""

    def names(command: str) -> set[str]:
        module = script(entry.MODULES[command])
        return {flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)}

    return names


def test_the_batching_parameters_are_consistent_and_do_not_pad() -> None:
    text = (_DEPLOY / "batching.config").read_text(encoding="utf-8")
    sizes = [int(size) for size in re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.MULTILINE)]
    # TensorFlow Serving requires ascending sizes, the last of them the largest batch.
    assert sizes == sorted(sizes)
    assert f"max_batch_size {{ value: {sizes[-1]} }}" in text
    assert "pad_variable_length_inputs: false" in text


def test_both_places_start_the_model_server_in_the_same_way() -> None:
    commands = _commands()
    assert commands["compose"] == commands["kubernetes"]


def test_the_model_config_serves_all_published_versions(
    tiny_base: pathlib.Path, tiny_bundle: releases.Bundle
) -> None:
    models = model_config.read(_DEPLOY / "models.config")
    for item in models.model_config_list.config:
        assert item.base_path == f"/models/{item.name}"
        item.base_path = str(tiny_base.resolve() / item.name)
    version = tiny_bundle.version
    with model_server.ModelServer(models, rest_port=0) as server:
        assert server.manager.available_versions() == {
            "ranker": [version],
            "query_tower": [version],
        }
        # The check of compose.yaml.
        test = _yaml("compose.yaml")["services"]["tensorflow-serving"]["healthcheck"]["test"]
        check = [item.replace("/8501", f"/{server.rest_port}") for item in test[1:]]
        assert subprocess.run(check, timeout=30, check=False).returncode == 0
    assert subprocess.run(check, timeout=30, check=False).returncode != 0


def test_compose_services_are_complete() -> None:
    document = _yaml("compose.yaml")
    assert set(document) == {"name", "services", "volumes", "secrets", "x-restricted"}
    services = document["services"]
    assert set(services) == {*_WORKLOADS, "prometheus"}
    known = {
        *("image", "build", "entrypoint", "command", "volumes", "ports", "healthcheck"),
        *("depends_on", "deploy", "stop_grace_period", "restart", "environment", "secrets"),
        *document["x-restricted"],
    }
    for name, service in services.items():
        assert set(service) <= known, name
        assert ("image" in service) != ("build" in service), name
        assert "memory" in service["deploy"]["resources"]["limits"], name
        for port in service.get("ports", []):
            # By default, only this machine can connect.
            assert re.fullmatch(r"127\.0\.0\.1:[\d-]+:\d+", port), port
        for dependency, until in service.get("depends_on", {}).items():
            health = until["condition"] == "service_healthy"
            assert health == ("healthcheck" in services[dependency])
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (_DEPLOY / volume.split(":")[0]).is_file(), volume
    devices = services["tensorflow-serving"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert services["orchestrator"]["deploy"]["replicas"] == 2


def test_images_name_no_registry_host_and_one_version() -> None:
    compose = (_DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    images = re.findall(r"image: (\S+)", compose)
    images = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", image) for image in images]
    images += [item["image"] for item in _all_containers()]
    images += re.findall(r"^FROM (\S+)", (_DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    tags = {item["name"]: item["newTag"] for item in _yaml("kustomization.yaml")["images"]}
    assert tags["tfrec-orchestrator"] == tfrec.__version__
    # The version that exports the models, whose API the client uses.
    assert tags["tensorflow/serving"] == f"{importlib.metadata.version('tensorflow')}-gpu"
    images = [f"{image}:{tags[image]}" if image in tags else image for image in images]
    assert len(images) == 5
    for image in images:
        # The part before the first slash is a host if it has a dot or a port.
        parts = image.split("/")
        assert len(parts) == 1 or not set(".:") & set(parts[0]), image
        assert re.search(r":v?\d+\.\d+\.\d+", image), image
    assert "latest" not in compose


def test_the_orchestrator_starts_with_flags_of_its_command(
    flags_of: Callable[[str], set[str]],
) -> None:
    dockerfile = (_DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^(ENTRYPOINT|CMD|USER|COPY) (.+)$", dockerfile, re.MULTILINE))
    program, command, *arguments = ast.literal_eval(lines["ENTRYPOINT"])
    assert (program, command) == ("tfrec", "serve")
    arguments += ast.literal_eval(lines["CMD"])
    arguments += _container("orchestrator")["args"]
    arguments += _yaml("compose.yaml")["services"]["orchestrator"]["command"]
    names = {argument.removeprefix("--").split("=")[0] for argument in arguments}
    assert names <= flags_of("serve")
    assert int(lines["USER"]) == 10001 != 0
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    for source in sources:
        assert (_ROOT / source).exists(), source
    ignored = (_DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    tops = {source.split("/")[0] for source in sources}
    assert {line[1:] for line in ignored if line.startswith("!")} == tops
    build = _yaml("compose.yaml")["services"]["orchestrator"]["build"]
    assert (_DEPLOY / build["context"]).resolve() == _ROOT
    assert (_ROOT / build["dockerfile"]).is_file()


def test_the_clients_address_is_the_model_servers() -> None:
    compose = _yaml("compose.yaml")["services"]
    for arguments, ports in (
        (compose["orchestrator"]["command"], {8500}),
        (
            _container("orchestrator")["args"],
            {item["port"] for item in _object("Service", "tensorflow-serving")["spec"]["ports"]},
        ),
    ):
        address = next(a for a in arguments if a.startswith("--ranker_address="))
        host, port = address.split("=")[1].removeprefix("dns:///").split(":")
        assert host in compose
        assert int(port) in ports


_VERSIONS = ("1.34", "1.37")
_COMPONENTS = sorted((_DEPLOY / "components").iterdir())


def _built(directory: pathlib.Path) -> list[dict[str, Any]]:
    command = [str(KUSTOMIZE), "build", str(directory)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return list(yaml.safe_load_all(built.stdout))


@pytest.fixture(scope="module")
def with_components(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the kustomization builds after the commands of its comment."""
    directory = tmp_path_factory.mktemp("deploy") / "deploy"
    shutil.copytree(_DEPLOY, directory)
    comment = (_DEPLOY / "kustomization.yaml").read_text(encoding="utf-8")
    edits = re.findall("kustomize (edit add component .*)", comment)
    assert [edit.rpartition("/")[2] for edit in edits] == [path.name for path in _COMPONENTS]
    for edit in edits:
        subprocess.run([str(KUSTOMIZE), *edit.split()], cwd=directory, timeout=60, check=True)
    return _built(directory)


@NEEDS_KUSTOMIZE
@pytest.mark.parametrize("version", _VERSIONS)
def test_all_objects_of_the_kustomization_have_the_fields_that_kubernetes_knows(
    with_components: list[dict[str, Any]], version: str
) -> None:
    objects = _built(_DEPLOY)
    kinds = {item["kind"] for item in objects}
    assert kinds == {item["kind"] for item in _objects()} | {"ConfigMap"}
    # Each component adds a policy.
    assert len(with_components) == len(objects) + len(_COMPONENTS)
    for item in [*objects, *with_components]:
        assert item["kind"] == "Namespace" or item["metadata"]["namespace"] == "tfrec"
        kubernetes_validate.validate(item, version, strict=True)
    misspelled = next(item for item in objects if item["kind"] == "Deployment")
    misspelled["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(misspelled, version, strict=True)


@NEEDS_KUSTOMIZE
def test_components_name_the_user_store_and_open_the_network_to_it(
    with_components: list[dict[str, Any]],
) -> None:
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["spec"]
        for item in with_components
        if item["kind"] == "Deployment"
    }
    for name, secrets in {
        "orchestrator": {
            "TFREC_USER_STORE": ("tfrec-user-store", "url", "shared_flags.py"),
        },
    }.items():
        (container,) = pods[name]["containers"]
        variables = {item["name"]: item["valueFrom"]["secretKeyRef"] for item in container["env"]}
        assert variables == {
            variable: {"name": secret, "key": key} for variable, (secret, key, _) in secrets.items()
        }
        for variable, (*_, module) in secrets.items():
            source = (_ROOT / "serving" / "cli" / module).read_text(encoding="utf-8")
            flag = variable.removeprefix("TFREC_").lower()
            assert f'command_line.address_of_flag("{flag}")' in source
    policies = {
        item["metadata"]["name"]: item["spec"]
        for item in with_components
        if item["kind"] == "NetworkPolicy"
    }
    for name, port in (("milvus", 19530), ("valkey", 6379)):
        policy = policies[f"orchestrator-{name}"]
        assert policy["podSelector"] == {"matchLabels": {"app": "orchestrator"}}
        (rule,) = policy["egress"]
        assert rule["ports"] == [{"port": port}]
        assert rule["to"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": name}


def test_orchestrators_see_the_address_of_every_model_server() -> None:
    service = _object("Service", "tensorflow-serving")
    # Its name resolves to the pods that are ready.
    assert service["spec"]["clusterIP"] == "None"
    assert "publishNotReadyAddresses" not in service["spec"]
    port = next(item for item in service["spec"]["ports"] if item["name"] == "grpc")["port"]
    address = f"dns:///{service['metadata']['name']}:{port}"
    assert f"--ranker_address={address}" in _container("orchestrator")["args"]
    assert ranker.target(address) == address
    # Without an address of the service, clients connect to the port of the pods.
    assert {"name": "grpc", "containerPort": port} in _container("tensorflow-serving")["ports"]


@pytest.mark.parametrize("name", _WORKLOADS)
def test_pods_have_no_privileges_and_are_spread(name: str) -> None:
    pod = _object("Deployment", name)["spec"]["template"]["spec"]
    assert (
        pod["securityContext"].items()
        >= {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }.items()
    )
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        # TensorFlow and Python write temporary files.
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    for constraint in pod["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == {"app": name}
    enforced = _object("Namespace", "tfrec")["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_service_has_a_token_and_a_certificate() -> None:
    container = _container("orchestrator")
    mounts = {item["name"]: item["mountPath"] for item in container["volumeMounts"]}
    pod = _object("Deployment", "orchestrator")["spec"]["template"]["spec"]
    secrets = {
        mounts[item["name"]]: item["secret"]["secretName"]
        for item in pod["volumes"]
        if "secret" in item
    }
    assert secrets == {"/secrets/token": "tfrec-token", "/secrets/tls": "tfrec-tls"}
    assert {
        "--token_file=/secrets/token/token",
        "--tls_certificate=/secrets/tls/tls.crt",
        "--tls_key=/secrets/tls/tls.key",
    } <= set(container["args"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
    compose = _yaml("compose.yaml")
    for name in ("orchestrator", "prometheus"):
        assert compose["services"][name]["secrets"] == list(compose["secrets"]) == ["token"]
    assert "--token_file=/run/secrets/token" in compose["services"]["orchestrator"]["command"]
    jobs = {item["job_name"]: item for item in _yaml("prometheus.yml")["scrape_configs"]}
    assert jobs["orchestrator"]["authorization"] == {"credentials_file": "/run/secrets/token"}


def test_the_model_server_has_a_thread_for_each_call_of_all_orchestrators() -> None:
    # The stable and the canary release each make up to `max_calls` calls at once.
    calls = 2 * config.RankingConfig().max_calls
    spec = _object("Deployment", "orchestrator")["spec"]
    surge = spec["strategy"]["rollingUpdate"]["maxSurge"]
    pods = _object("HorizontalPodAutoscaler", "orchestrator")["spec"]["maxReplicas"] + surge
    replicas = _yaml("compose.yaml")["services"]["orchestrator"]["deploy"]["replicas"]
    for place, count in (("kubernetes", pods), ("compose", replicas)):
        # 16 for probes, and for the threads with which the server waits for calls.
        (threads,) = re.findall(r"--grpc_max_threads=(\d+)", " ".join(_commands()[place]))
        assert int(threads) >= count * calls + 16
    arguments = [*_container("orchestrator")["args"]]
    arguments += _yaml("compose.yaml")["services"]["orchestrator"]["command"]
    assert not [item for item in arguments if re.match("--(workers|max_ranker_calls)", item)]


class _Serving(http.server.BaseHTTPRequestHandler):
    """The metrics page of a model server that answers a request during each of its first pauses."""

    remaining = 0
    answered = 0

    def do_GET(self) -> None:
        if self.remaining:
            type(self).remaining -= 1
            type(self).answered += 1
        self.send_response(200)
        self.end_headers()
        page = f':tensorflow:serving:request_count{{status="OK"}} {self.answered}\n'
        self.wfile.write(page.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("requests", "pauses"), [(0, 1), (3, 3), (1000, 32)])
def test_a_model_server_is_drained_before_it_is_stopped(
    tmp_path: pathlib.Path, requests: int, pauses: int
) -> None:
    (tmp_path / "sleep").write_text('#!/usr/bin/env bash\necho "$1" >> "$PAUSES"\n')
    (tmp_path / "sleep").chmod(0o755)
    log = tmp_path / "pauses"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PAUSES": str(log)}
    _Serving.remaining = requests
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Serving) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        command = ["bash", str(_DEPLOY / "drain.sh"), str(serving.server_port)]
        subprocess.run(command, env=environment, timeout=120, check=True)
        serving.shutdown()
        thread.join()
    found = [int(line) for line in log.read_text().split()]
    # It ends after a pause without a request, or after 32 of these pauses.
    assert found == [5, *[3] * pauses]
    spec = _object("Deployment", "tensorflow-serving")["spec"]["template"]["spec"]
    assert sum(found) < spec["terminationGracePeriodSeconds"]
    stop = _container("tensorflow-serving")["lifecycle"]["preStop"]["exec"]["command"]
    assert stop == ["bash", "/deploy/drain.sh"]
    # By then, the server has closed every connection that the pod had.
    arguments = " ".join(_commands()["kubernetes"])
    age, grace = re.findall(r"grpc\.max_connection_age(?:_grace)?_ms=(\d+)", arguments)
    assert 1.1 * int(age) + int(grace) < 1000 * (5 + 32 * 3)


def test_an_orchestrator_has_the_time_that_its_shutdown_may_take() -> None:
    http = config.HttpConfig()
    # As for the workers of `tfrec serve`: 15 s after the requests in flight.
    seconds = http.drain_seconds + http.end_seconds + 15
    grace = _yaml("compose.yaml")["services"]["orchestrator"]["stop_grace_period"]
    assert seconds < int(grace.removesuffix("s"))
    command, pause = _container("orchestrator")["lifecycle"]["preStop"]["exec"]["command"]
    spec = _object("Deployment", "orchestrator")["spec"]["template"]["spec"]
    assert command == "sleep"
    assert seconds + int(pause) < spec["terminationGracePeriodSeconds"]


def _pins(path: pathlib.Path) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub("[-_.]+", "-", name).lower(): version for name, version in lines}


def _installed(name: str, found: set[str]) -> set[str]:
    """The packages that a package needs, below it too."""
    for text in importlib.metadata.requires(name) or []:
        needed = package_requirements.Requirement(text)
        key = re.sub("[-_.]+", "-", needed.name).lower()
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        if key not in found:
            found.add(key)
            _installed(needed.name, found)
    return found


def test_the_image_installs_the_pinned_packages_by_their_hashes() -> None:
    text = (_DEPLOY / "requirements.txt").read_text(encoding="utf-8")
    pins, known = _pins(_DEPLOY / "requirements.txt"), _pins(_ROOT / "constraints.txt")
    update = "the comment at its top says how to update it"
    assert pins.items() <= known.items(), update
    assert pins.keys() >= _installed("tfrec", set()), update
    entries = re.split(r"\n(?=\S)", text[text.index("absl-py==") :].strip())
    assert len(entries) == len(pins)
    for pinned in entries:
        assert "--hash=sha256:" in pinned, pinned
    dockerfile = (_DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    installs = re.findall("pip install .*", dockerfile)
    assert [("--require-hashes" in line, "--no-deps" in line) for line in installs] == [
        (True, False),
        (False, True),
    ]


def test_probes_request_what_the_servers_answer() -> None:
    container = _container("tensorflow-serving")
    assert "--enable_grpc_healthcheck_service=true" in container["args"]
    ports = {
        f"--{flag}={port['containerPort']}"
        for flag, port in zip(("port", "rest_api_port"), container["ports"], strict=True)
    }
    assert ports <= set(container["args"])
    container = _container("orchestrator")
    routes = (_ROOT / "serving" / "service" / "rest" / "app.py").read_text(encoding="utf-8")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f'"{container[probe]["httpGet"]["path"]}"' in routes


def test_prometheus_reads_the_services_and_the_alert_rules() -> None:
    config = _yaml("prometheus.yml")
    assert [(_DEPLOY / name).is_file() for name in config["rule_files"]] == [True]
    jobs = {item["job_name"]: item for item in config["scrape_configs"]}
    assert set(jobs) == set(_WORKLOADS)
    serving = jobs["tensorflow-serving"]
    assert serving["metrics_path"] == "/monitoring/prometheus/metrics"
    assert serving["static_configs"] == [{"targets": ["tensorflow-serving:8501"]}]
    assert jobs["orchestrator"]["dns_sd_configs"][0]["port"] == 8080


def test_alerts_use_metrics_that_the_server_has() -> None:
    page = orchestrator.ServiceMetrics().render().decode()
    exported = set(re.findall(r"# TYPE (\S+)", page))
    # TensorFlow Serving's.
    exported |= {
        ":tensorflow:serving:request_count",
        ":tensorflow:serving:request_latency",
        ":tensorflow:cc:saved_model:load_attempt_count",
    }
    jobs = {item["job_name"] for item in _yaml("prometheus.yml")["scrape_configs"]}
    rules = [rule for group in _yaml("alerts.yml")["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        expression = rule["expr"]
        assert {"severity"} == set(rule["labels"])
        assert rule["annotations"]["summary"]
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing)
        metrics = re.findall(r":tensorflow[\w:]+|tfrec_\w+", expression)
        for name in metrics:
            # The parts of a histogram have its name and a suffix.
            assert {name, re.sub("_(bucket|count)$", "", name)} & exported, name
        assert metrics or "up{" in expression
        assert set(re.findall(r'job="([^"]+)"', expression)) <= jobs
        # `increase` does not see a counter's first value, because there is none before it.
        assert "increase(" not in expression or "unless" in expression
    # Targets that DNS finds have no `up` once they are gone.
    found = [item for item in _yaml("prometheus.yml")["scrape_configs"] if "dns_sd_configs" in item]
    for job in found:
        absent = f'absent(up{{job="{job["job_name"]}"}} == 1)'
        assert absent in [rule["expr"] for rule in rules]


def test_alerts_on_requests_do_not_count_probes() -> None:
    rules = [rule for group in _yaml("alerts.yml")["groups"] for rule in group["rules"]]
    expressions = {rule["alert"]: rule["expr"] for rule in rules}
    for alert in ("RequestsFail", "RequestsRejected"):
        paths = re.findall(r'tfrec_requests_total\{path=~"(.*?)"', expressions[alert])
        assert len(paths) == expressions[alert].count("tfrec_requests_total") == 2
        for path in paths:
            assert re.fullmatch(path, "/v1/recommend/batch")
            # A pod that starts or ends answers /readyz with 503, and gets no requests.
            assert not re.fullmatch(path, "/readyz")
    assert 'path="/readyz",status="503"' in expressions["OrchestratorNotReady"]


def test_calls_of_a_release_that_is_not_loaded_yet_are_not_ranker_errors() -> None:
    rules = [rule for group in _yaml("alerts.yml")["groups"] for rule in group["rules"]]
    expression = next(rule["expr"] for rule in rules if rule["alert"] == "RankerErrors")
    (matcher,) = re.findall(r'status!~"(.*?)"', expression)
    assert re.fullmatch(matcher, "NOT_FOUND")
    assert re.fullmatch(matcher, "OK")
    assert not re.fullmatch(matcher, "INTERNAL")
