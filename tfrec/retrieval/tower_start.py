"""Initial weights of the query tower: copied from the ad tower for inputs that are ads.

A history, or the user's clicks, reach the query tower as embeddings of ads. With independent
initial weights the two towers map the same ad to unrelated directions: an inner product of two such
maps is a saddle, where training on sparse logs stays for many epochs with every query at the most
popular ads. With the same weights a query starts near the ads it is made of, and the first steps
pull together ads that are clicked together, as in item2vec. After that each tower learns its own
weights. The rows of ads have to differ from the start, so such models initialize the embeddings of
frequencies with zeros.

Shapes: E field embedding, H hidden, Fa fields of the ad side.

References:
    Barkan and Koenigstein, Item2Vec, 2016.
    Saxe, McClelland and Ganguli, Exact Solutions to the Nonlinear Dynamics of Learning in Deep
    Linear Neural Networks, 2014 (the saddle at the start of products of maps).
"""

import numpy as np
import tensorflow as tf

from tfrec.retrieval import towers


def copy_initial_weights(query_tower: towers.Tower, ad_tower: towers.Tower) -> None:
    """Copies weights of a built ad tower to a built query tower that reads ads.

    The map from the ads' flat embeddings [Fa E] to the tower's [E] becomes an orthonormal
    projection. The part of the first layer that reads it becomes the ad tower's first layer,
    restricted to the range of the projection.
    """
    readers = query_tower.ad_readers
    if not readers:
        return
    for query_layer, ad_layer in zip(query_tower.later_layers, ad_tower.later_layers, strict=True):
        query_layer.set_weights(ad_layer.get_weights())
    ad_kernel = ad_tower.input_layer.kernel.numpy()  # [Fa E, H]
    kernel = query_tower.input_layer.kernel.numpy()  # [F E, H]
    for index, reader in readers:
        rows, dim = reader.kernel.shape
        # With orthonormal columns, or rows if these are fewer.
        projection = np.eye(dim, dtype=np.float32)
        if rows != dim:
            projection = tf.keras.initializers.Orthogonal()((rows, dim)).numpy()
        reader.kernel.assign(projection)
        kernel[index * dim : (index + 1) * dim] = projection.T @ ad_kernel
    query_tower.input_layer.kernel.assign(kernel)
