"""Embeddings of ads and queries from files."""

import numpy as np
import pytest

from serving import export


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.npz", lambda path: np.savez(path, ads=np.eye(2)), "x.npz: expected an array of numpy"),
        ("x.npy", lambda path: np.save(path, 3.0), r"holds float64 \[\]; expected floats \[rows"),
        ("x.npy", lambda path: np.save(path, np.eye(2, dtype=int)), r"holds int64 \[2, 2\]"),
    ],
)
def test_a_file_that_does_not_contain_float_vectors_is_refused(tmp_path, name, write, message):
    path, good = str(tmp_path / name), str(tmp_path / "good.npy")
    write(path)
    np.save(good, np.eye(2, dtype=np.float32))
    for files in ((path, good), (good, path)):
        with pytest.raises(ValueError, match=message):
            export.embeddings_from_files(*files)
