"""Validation curves and options for TensorBoard, read back from the event files."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tfrec.training import validation_summaries


def read(directory):
    """Reads the events of a run."""
    keep = {kind: 0 for kind in (event_accumulator.TENSORS, event_accumulator.IMAGES)}
    return event_accumulator.EventAccumulator(str(directory), keep).Reload()


def array(events, tag):
    """Returns the last tensor of a tag."""
    return tf.make_ndarray(events.Tensors(tag)[-1].tensor_proto)


def test_a_pr_curve_has_the_precision_and_recall_of_each_threshold(tmp_path):
    values = {"click_probability": np.array([0.1, 0.4, 0.6, 0.9, 0.5])}
    labels = {"click": np.array([0.0, 1.0, 0.0, 1.0, np.nan])}
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=3):
        validation_summaries.write_curves(values, labels)
    events = read(tmp_path)
    assert events.Tensors("validation_pr_curve/click/pr_curves")[0].step == 3
    # Rows of true and false positives, true and false negatives, precision, recall.
    curve = array(events, "validation_pr_curve/click/pr_curves")
    assert curve.shape == (6, validation_summaries.NUM_THRESHOLDS)
    # At 0.5, threshold 100 of 0 … 200: 0.6 and 0.9 are above, one of them one of the two clicks.
    assert curve[:, 100].tolist() == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]


def test_a_head_with_one_kind_of_label_has_no_curve(tmp_path):
    values = {"click_probability": np.array([0.1, 0.4])}
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=3):
        validation_summaries.write_curves(values, {"click": np.zeros(2)})
    assert read(tmp_path).Tags()["tensors"] == []


def test_bins_of_a_calibration_curve_hold_equally_many_rows():
    probability = np.arange(30) / 30
    positive = np.arange(30) % 4 == 1
    predicted, observed = validation_summaries.calibration_curve(positive, probability)
    assert predicted.tolist() == pytest.approx(((np.arange(15) * 2 + 0.5) / 30).tolist())
    assert observed.tolist() == [0.5, 0.0] * 7 + [0.5]


def test_options_of_any_type_are_hyper_parameters(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=0):
        validation_summaries.write_options({"epochs": 3, "refit": True, "trunk": "x", "no": None})
    events = read(tmp_path)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["epochs"].number_value == 3
    assert start.hparams["refit"].bool_value is True
    assert start.hparams["trunk"].string_value == "x"
    assert start.hparams["no"].string_value == "None"


@pytest.mark.trains
def test_a_trained_ranker_left_curves_of_each_epoch_its_options_and_its_graph(trained):
    events = read(trained / "ranker" / "tensorboard")
    history = json.loads((trained / "ranker" / "history.json").read_text())
    epochs = [entry["epoch"] for entry in history]
    for head in ("click", "engagement"):
        for tag in (f"validation_pr_curve/{head}/pr_curves", f"validation_calibration/{head}"):
            assert [e.step for e in events.Tensors(tag)] == epochs
    image = events.Tensors("validation_calibration/click")[0].tensor_proto.string_val[2]
    assert tf.io.decode_png(image).shape[2] == 4
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["model_dim"].number_value == 16
    nodes = [node.op for node in events.Graph().node]
    assert "ResourceApplyAdam" in nodes or "AssignAddVariableOp" in nodes
    assert len(nodes) > 100


@pytest.mark.trains
def test_a_trained_tower_left_its_options_and_its_graph(trained):
    events = read(trained / "retrieval" / "tensorboard")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["embedding_dim"].number_value == 16
    assert events.Graph().node
