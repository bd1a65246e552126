"""The vectors of a release in Milvus, and the filters of requests in its language."""
