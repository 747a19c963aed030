"""Images of requests: bytes, data URIs, and URLs fetched safely."""
