"""Models that tfrec did not train are published with the commands and examples in the docs."""

import contextlib
import dataclasses
import pathlib
import re
import shlex
import shutil

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from pyarrow import feather
from repository import EXAMPLES, ROOT

from serving import client, errors, export, manifest, releases
from serving.cli import entry
from serving.index import IndexConfig
from tfrec import calibration, retrieval

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "howto" / "publish_models.md").read_text(encoding="utf-8")


def blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [text for named, text in found if named == language]


@pytest.fixture
def call(script, capsys):
    """Runs a command's main in this process and returns what it printed."""

    def run(words):
        module = script(entry.MODULES[words[0]])
        with flagsaver.flagsaver():
            flags.FLAGS(words)
            module.main()
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A directory with the models, ads, schema and requests of the page. Read only."""
    directory = tmp_path_factory.mktemp("page")
    with contextlib.chdir(directory):
        exec(blocks("python")[0], {})
    return directory


@pytest.fixture
def here(page, tmp_path, monkeypatch):
    """The current directory, with a copy of the page's files."""
    shutil.copytree(page, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


PUBLISH = next(line for line in blocks("")[0].splitlines() if " publish " in line)


@pytest.mark.usefixtures("here")
def test_the_page_publishes_keras_models_by_command_and_in_python(call):
    printed = call(shlex.split(PUBLISH)[1:])
    assert printed == "release 1 is published in bundles: 1,000 ads, index Flat, heads click\n"
    with client.LocalClient("bundles") as both_stages:
        ads = both_stages.recommend(user={"country": "CH", "age": 33}, k=3).ads
    assert 1 > ads[0].click_probability >= ads[2].click_probability > 0
    exec(blocks("python")[1], {})
    releases.promote(pathlib.Path("bundles"), 2)
    assert releases.roll_back(pathlib.Path("bundles")).after.stable == 1


@pytest.mark.usefixtures("here")
def test_a_request_of_the_file_that_does_not_fit_is_named(call):
    path = pathlib.Path("requests.jsonl")
    path.write_text('{"user": {"age": 3}}\n\n{"context": {"contry": "CH"}}\n', encoding="utf-8")
    message = r"^sample_requests\[1\]: context: unknown field 'contry'"
    with pytest.raises(errors.InvalidRequestError, match=message):
        call(shlex.split(PUBLISH)[1:])


@pytest.mark.usefixtures("here")
def test_doctor_checks_a_release_without_training_data(call):
    exec(blocks("python")[1], {})
    command = ["doctor", "--bundle=bundles", "--model_server=", "--service="]
    printed = call(command)
    assert "the ranker reproduces its probes" in printed
    assert " 0 failed" in printed


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "arrow"])
def test_ids_keep_their_zeros_and_empty_values_are_missing(call, suffix):
    path = pathlib.Path(f"ads.{suffix}")
    if suffix == "csv":
        path.write_text("sku,brand,price,note\n007,b,1.5,x\n08,,,\n")
    elif suffix == "jsonl":
        path.write_text('{"sku": "007", "brand": "b", "price": 1.5, "note": "x"}\n{"sku": "08"}\n')
    else:
        ads = {"sku": ["007", "08"], "brand": ["b", None], "price": [1.5, None]}
        feather.write_feather(pa.table(ads), path)
    words = shlex.split(PUBLISH)[1:]
    call([*(w for w in words if "--ads_path" not in w), f"--ads_path={path}", "--json"])
    index = releases.load("bundles").ad_index
    assert [(ad.ad_id, ad.fields) for ad in index.listed(np.arange(2))] == [
        ("007", {"brand": "b", "price": 1.5}),
        ("08", {"brand": None, "price": None}),
    ]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("ads_path=empty.csv", "", "empty.csv is empty"),
        (
            "ads_path=broken.csv",
            "sku,brand,price\na,b,dear\n",
            "broken.csv, line 2: price must be a",
        ),
        ("requests=bad.jsonl", '{"user": {}}\n{', "request 2: expected a JSON request"),
        ("requests=bad.jsonl", '{"usr": {}}', "bad.jsonl, request 1.usr: unknown key"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(call, flag, content, message):
    pathlib.Path(flag.partition("=")[2]).write_text(content)
    words = [w for w in shlex.split(PUBLISH)[1:] if not w.startswith(f"--{flag.partition('=')[0]}")]
    with pytest.raises((ValueError, errors.InvalidRequestError), match=message):
        call([*words, f"--{flag}"])
    assert not pathlib.Path("bundles").exists()


@pytest.mark.usefixtures("here")
def test_the_grpc_example_sends_missing_values_of_each_kind(script, monkeypatch):
    exec(blocks("python")[1], {})
    base = pathlib.Path("bundles")
    published = manifest.read(base, 1)
    vector = {"name": "vector", "kind": "dense", "length": 3}
    fields = [*published.query_fields, {"name": "search", "kind": "text"}, vector]
    changed = dataclasses.replace(published, query_fields=fields)
    manifest.path_of(base, 1).write_bytes(manifest.encode(changed))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sent = script("predict_grpc").request(base).inputs
    shapes = {name: tf.make_ndarray(tensor).shape for name, tensor in sent.items()}
    assert shapes == {
        "country": (1,),
        "age": (1,),
        "search": (1,),
        "vector": (1, 3),
        "ad_features": (1, 3, 2),
    }


@pytest.fixture
def workdir(data_set, trained, tmp_path):
    """A work directory with a data set and a release of the trained towers."""
    two_tower, _ = retrieval.load_two_tower(data_set, trained / "retrieval")
    flat, untrained = IndexConfig(kind="Flat"), calibration.Calibrators()
    export.export_release(tmp_path / "bundle", data_set, two_tower, None, untrained, flat, {})
    (tmp_path / "data").symlink_to(data_set.directory)
    return tmp_path


@pytest.mark.trains
def test_lightgbm_trees_are_served_after_the_towers(workdir, data_set, script, monkeypatch):
    pytest.importorskip("lightgbm")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = script("lightgbm_ranker")
    base = workdir / "lightgbm"
    with flagsaver.flagsaver():
        flags.FLAGS(["example", f"--workdir={workdir}", f"--bundle={base}"])
        example.main()
    features = np.asarray(data_set.catalog().features)
    window = next(iter(data_set.windows("test")))
    ads = data_set.catalog().ad_ids.to_pylist()
    booster = example.train(data_set)
    with client.LocalClient(base) as both_stages:
        for row, fields in enumerate(data_set.sample_requests()[:5]):
            answer = both_stages.recommend(context=fields, k=len(ads))
            served = {ad.ad_id: ad.click_probability for ad in answer.ads}
            query = np.repeat(window["query"][row : row + 1], len(ads), axis=0)
            expected = booster.predict(np.hstack([query, features]))
            np.testing.assert_allclose([served[ad] for ad in ads], expected, atol=1e-6)
            assert answer.absent_heads == []
