"""Which columns have the ids of users and of ads."""

import tensorflow as tf

from tfrec import layers
from tfrecords import encoding
from tfrecords import schema as schema_lib

# Query columns: seen ×2, user.
FIELDS = (
    schema_lib.Field("seen", "categorical_list", "query", max_list_length=2),
    schema_lib.Field("user", "categorical", "query", column="uid", num_oov_buckets=2),
    schema_lib.Field("ad", "categorical", "ad"),
)
STATISTICS = {
    "seen": encoding.FieldStatistics(vocabulary=("a",)),
    "user": encoding.FieldStatistics(vocabulary=("u", "v")),  # ids 1, 2; out-of-vocabulary 3, 4
    "ad": encoding.FieldStatistics(vocabulary=("a", "b")),
}


def fitted(user_key=None, ad_key=("ad",)):
    schema = schema_lib.Schema("shop", FIELDS, ad_key=ad_key, click="c", user_key=user_key)
    return encoding.FittedSchema(schema, STATISTICS)


def find(user_key):
    return layers.KeyIds.for_users(fitted(user_key))


def test_users_are_found_where_a_query_field_reads_the_user_key():
    assert find("uid") is not None
    assert find(None) is None
    assert find("user") is None  # a field's name is no column
    assert find("seen") is None  # a list is no id
    assert find("ad") is None


def test_ids_in_and_out_of_vocabulary():
    users = find("uid")
    query = tf.constant([[1, 0, 0], [1, 1, 1], [0, 0, 2], [0, 0, 3], [0, 0, 4]])
    assert users.ids_in(query).numpy().tolist() == [0, 1, 2, 3, 4]
    assert users.is_known(query).numpy().tolist() == [False, True, True, False, False]
    assert users.vocabulary == ("u", "v")
    assert users.cardinality == 5


def test_ads_are_found_where_one_field_is_the_whole_key():
    ads = layers.KeyIds.for_ads(fitted())
    assert (ads.column, ads.vocabulary, ads.cardinality) == (
        0,
        ("a", "b"),
        11,
    )  # eight are out of vocabulary
    assert layers.KeyIds.for_ads(fitted(ad_key=("ad", "size"))) is None
    assert layers.KeyIds.for_ads(fitted(ad_key=("sku",))) is None
