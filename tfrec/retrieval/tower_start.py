"""Where training of the towers starts: what the query tower reads of ads, it reads as the ad tower.

A history, or the user's clicks, reach the query tower as embeddings of ads. With weights
drawn apart, the two towers place the same ad in unrelated directions: an inner product of two
such maps is a saddle, on which sparse logs stay for many passes with every query at the most
popular ads. With the same weights a query starts near the ads it is made of, and the first
steps pull together what is clicked together, as in item2vec. From there on each tower learns
weights of its own. For that the rows of ads have to stand out from the start: what ads of one
frequency share begins at zero in such models.

Shapes: E field embedding, H hidden, Fa fields of the ad side.

References:
    Barkan and Koenigstein, Item2Vec, 2016.
    Saxe, McClelland and Ganguli, Exact Solutions to the Nonlinear Dynamics of Learning in Deep
    Linear Neural Networks, 2014 (the saddle at the start of products of maps).
"""

import numpy as np
import tensorflow as tf

from tfrec.retrieval import towers


def alike(query_tower: towers.Tower, ad_tower: towers.Tower) -> None:
    """Copies weights of a built ad tower to a built query tower that reads ads; else does nothing.

    The map of ads' flat embeddings [Fa E] to the tower's [E] becomes an orthonormal projection,
    and its share of the first layer what the ad tower's first layer makes of its range.
    """
    readers = query_tower.ad_readers
    if not readers:
        return
    for own, other in zip(query_tower.later_layers, ad_tower.later_layers, strict=True):
        own.set_weights(other.get_weights())
    of_ads = ad_tower.input_layer.kernel.numpy()  # [Fa E, H]
    kernel = query_tower.input_layer.kernel.numpy()  # [F E, H]
    for place, reader in readers:
        projection = _projection(*reader.kernel.shape)
        reader.kernel.assign(projection)
        dim = projection.shape[1]
        kernel[place * dim : (place + 1) * dim] = projection.T @ of_ads
    query_tower.input_layer.kernel.assign(kernel)


def _projection(rows: int, columns: int) -> np.ndarray:
    """Returns [rows, columns] float32 of orthonormal columns, or rows where these are fewer."""
    if rows == columns:
        return np.eye(rows, dtype=np.float32)
    return tf.keras.initializers.Orthogonal()((rows, columns)).numpy()
