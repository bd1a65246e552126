"""Installs `tfrec`, `serving` and `tfrecords` as one distribution."""

import setuptools

TEST = ["build", "mypy", "pytest", "pytest-timeout", "pytest-xdist", "ruff", "setuptools", "wheel"]
BENCHMARK = ["lightgbm", "scikit-learn"]

setuptools.setup(
    name="tfrec",
    version="0.1.0",
    description="Two-stage ad recommender on TensorFlow: one command from a log to ranked ads",
    python_requires=">=3.11,<3.13",
    packages=setuptools.find_packages(
        include=["tfrec", "tfrec.*", "serving", "serving.*", "tfrecords", "tfrecords.*"]
    ),
    package_data={"serving.service.console": ["static/*"]},
    install_requires=[
        "absl-py",
        "faiss-cpu",
        "fastapi",
        "grpcio",
        "httpx",
        "matplotlib",
        "numpy",
        "prometheus-client",
        "pyarrow",
        "pydantic",
        "scipy",
        "tensorboard",
        "tensorflow>=2.21,<2.22",
        "tensorflow-recommenders>=0.7.7",
        "tensorflow-serving-api>=2.21,<2.22",
        "tf_keras>=2.21,<2.22",
        "tqdm",
        "uvicorn",
    ],
    extras_require={
        # The tests run the benchmark's peers, so they need them too.
        "test": [
            "ipykernel",
            "jsonschema",
            "mypy",
            "playwright",
            "nbclient",
            "nbformat",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "pyyaml",
            "ruff",
            "build",
            "setuptools",
            "wheel",
            *BENCHMARK,
        ],
        "benchmark": BENCHMARK,
        "beam": ["apache-beam"],
    },
)
