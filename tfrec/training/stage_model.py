"""The base class of both stages: a `tfrs.Model` whose logs are means over an epoch.

A subclass implements `compute_loss`, as for `tfrs.Model`. It trains by
`compile` and `fit`, under any optimizer and any `tf.distribute` strategy.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import layers
from tfrec.training import summaries
from tfrecords import encoding, plugins, reader
from tfrecords.schema import Schema

Model = TypeVar("Model", bound=tfrs.Model)


def construct(kind: type[Model], build: Callable[[], Model], expected: str) -> Model:
    """Returns a model that is built here, with clear errors for a custom class.

    Args:
        kind: Class of the model.
        build: Calls a class method of it, which calls its constructor.
        expected: The expected constructor, for messages.

    Raises:
        ValueError: The constructor has other arguments, or does not call that of its base class; or
            `build` returns something else.
    """
    try:
        model = build()
    except TypeError as error:
        calls = {
            f"{base.__qualname__}.{name}()"
            for base in kind.__mro__
            for name in ("__init__", "for_data_set")
        }
        if str(error).partition(" ")[0] not in calls:
            raise  # The call is valid, but the constructor fails.
        raise ValueError(
            f"{kind.__name__} cannot be built: {error}. Expected {expected}."
        ) from error
    if not isinstance(model, kind):
        raise ValueError(
            f"{kind.__name__}.for_data_set: expected a {kind.__name__}, got "
            f"{type(model).__name__}. Return the model."
        )
    if "gradient_norms" not in vars(model):
        raise ValueError(
            f"{kind.__name__}.__init__ does not call super().__init__ with the arguments of its "
            "base class. Call it first."
        )
    return model


class SavedAsWeights:
    """A Keras model of which only weights are saved: without a configuration, Keras would warn."""

    def get_config(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}


class StageModel(plugins.Plugin, SavedAsWeights, tfrs.Model):
    """A model with embedding tables.

    Differs from `tfrs.Model` in three ways. `loss` in logs is the mean over the epoch, not the
    last batch's. On several replicas, the loss is over their shared batch: a `compute_loss` returns
    the part of a share (`layers.share_of`), a mean over the rows of its whole batch. If Keras split
    the batches, it is the mean of the replicas' losses. And the norms of the gradients are measured
    in every `summaries.STEPS_PER_SAMPLE`th step; on several replicas they are averages over the
    replicas' parts.

    Attributes:
        gradient_norms: Norms of the latest measured step.

    Raises:
        ValueError: Keras would compute in a type other than float32.
    """

    train_function: Any

    def __init__(self) -> None:
        policy = tf.keras.mixed_precision.global_policy().name
        if policy != "float32":
            raise ValueError(
                f"Keras's global dtype policy is {policy!r}; expected 'float32', in which all "
                "layers compute. Call tf.keras.mixed_precision.set_global_policy('float32')."
            )
        super().__init__()
        self._mean_loss = tf.keras.metrics.Mean(name="loss")
        self.gradient_norms = summaries.GradientNorms()

    def compile(self, *args: Any, **options: Any) -> None:
        """See `tf.keras.Model.compile`; losses and metrics are those of the model's tasks.

        Raises:
            ValueError: It is given losses or metrics, which would not be used.
        """
        names = ("optimizer", "loss", "metrics", "loss_weights", "weighted_metrics")
        given = {**dict(zip(names, args, strict=False)), **options}
        unused = [name for name in names[1:] if given.get(name) is not None]
        if unused:
            raise ValueError(
                f"{type(self).__name__}.compile: expected an optimizer alone, got "
                f"{' and '.join(unused)}, which would not be used: losses and metrics are those of "
                "the model's tasks. Replace the tasks instead."
            )
        super().compile(*args, **options)

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The trainable variables that take sparse updates: the tables of embedding layers."""
        return layers.embedding_tables(self)

    @property
    def dense_variables(self) -> list[tf.Variable]:
        """The other trainable variables.

        Raises:
            ValueError: A layer is one of Keras 3, or has a policy of mixed precision.
        """
        for layer in self._flatten_layers():
            if layer.compute_dtype != layer.variable_dtype:
                raise ValueError(
                    f"{type(self).__name__}: the layer {layer.name!r} computes in "
                    f"{layer.compute_dtype}; expected float32, in which all layers compute. Make "
                    "it without a dtype."
                )
        for variable in self.trainable_variables:
            if not isinstance(variable, tf.Variable):
                raise ValueError(
                    f"{type(self).__name__} has a variable {variable.path!r} of a Keras other "
                    "than tf.keras. Make its layers with tf.keras.layers, not with keras.layers."
                )
        sparse = {variable.ref() for variable in self.sparse_variables}
        return [v for v in self.trainable_variables if v.ref() not in sparse]

    def train_step(self, inputs: reader.Batch) -> dict[str, tf.Tensor]:
        """Takes a step of the optimizer, and returns the metrics, scalars by name."""
        with tf.GradientTape() as tape:
            # The optimizer sums the gradients of all replicas.
            loss = self._own_part_of_loss(inputs, training=True)
        variables = self.trainable_variables
        pairs = list(zip(tape.gradient(loss, variables), variables, strict=True))
        try:
            self.optimizer.apply_gradients(pairs)
        except KeyError as error:
            raise ValueError(
                f"{type(self).__name__} has weights that the first training step created, too "
                f"late. {error.args[0].partition(' This ')[0]} Call their layers whether or not "
                "`training` is true, or build them in the constructor."
            ) from error
        sparse = {variable.ref() for variable in self.sparse_variables}
        self.gradient_norms.update(
            self.optimizer.iterations,
            [gradient for gradient, v in pairs if v.ref() not in sparse],
            [gradient for gradient, v in pairs if v.ref() in sparse],
        )
        return self._updated_metrics(loss)

    def test_step(self, inputs: reader.Batch) -> dict[str, tf.Tensor]:
        """Returns the metrics of a batch, scalars by name, without training."""
        return self._updated_metrics(self._own_part_of_loss(inputs, training=False))

    def check_batch(self, inputs: object, ad_rank: int, method: str, schema: Schema) -> None:
        """Checks that a batch comes from a data set, for this model.

        Args:
            inputs: The batch.
            ad_rank: Expected rank of `ad`.
            method: The method of `reader.DataSet` that streams such batches, for the message.
            schema: The schema of the model.

        Raises:
            ValueError: The batch does not have encoded ids of the expected ranks, or they are of
                other fields.
        """
        columns = inputs if isinstance(inputs, Mapping) else {}
        ad = columns.get("ad")
        if ad is None or "query" not in columns or ad.shape.rank not in (None, ad_rank):
            shapes = {name: tuple(column.shape) for name, column in columns.items()}
            raise ValueError(
                f"{type(self).__name__}: expected batches of DataSet.{method}, with encoded ids "
                f"`query` and `ad` (rank {ad_rank}), got {shapes or type(inputs).__name__}. "
                "Convert your own rows with tfrecords.from_pandas, and train on its data set."
            )
        expected = {name: encoding.width(schema.side(name)) for name in ("query", "ad")}
        got = {name: columns[name].shape[-1] for name in expected}
        if any(got[name] not in (None, width) for name, width in expected.items()):
            raise ValueError(
                f"{type(self).__name__}: expected batches with {expected} columns of ids, as in "
                f"the data set that it was built for, got {got}. Build a model for a data set with "
                "other fields, or convert the log with the schema of the model."
            )

    def _own_part_of_loss(self, inputs: reader.Batch, training: bool) -> tf.Tensor:
        """Returns the replica's part of the loss, with the regularization losses of layers."""
        number = self.distribute_strategy.num_replicas_in_sync
        loss = self.compute_loss(inputs, training=training)
        if layers.WHOLE in inputs:
            return tf.add_n([loss, *(penalty / number for penalty in self.losses)])
        return tf.add_n([loss, *self.losses]) / number

    def _updated_metrics(self, loss_part: tf.Tensor) -> dict[str, tf.Tensor]:
        # The metric is the mean over the replicas.
        self._mean_loss.update_state(loss_part * self.distribute_strategy.num_replicas_in_sync)
        return {metric.name: metric.result() for metric in self.metrics}

    def make_train_function(self, force: bool = False) -> Callable[..., Any]:
        """Returns Keras's function for a training step, without AutoGraph if it is not needed."""
        if force or self.train_function is None:
            function = super().make_train_function(force=True)
            # Keras's own loop over several steps of an execution needs AutoGraph.
            steps = self._steps_per_execution
            one_step = steps is None or steps.numpy() == 1
            if one_step and not self.run_eagerly and not layers.needs_autograph(self):
                self.train_function = self.train_tf_function = tf.function(
                    function.python_function, reduce_retracing=True, autograph=False
                )
        return self.train_function
