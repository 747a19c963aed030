"""Every path of the dialects as the OpenAPI document and the page at `/docs` show it."""

from dataclasses import dataclass
from typing import Any, Literal

from trine.runtime.serving.api.cohere import CohereBody
from trine.runtime.serving.api.kserve.protocol import InferHeader
from trine.runtime.serving.api.ollama import OllamaBody, OllamaPrompt
from trine.runtime.serving.api.requests.bodies import Body
from trine.runtime.serving.api.requests.embeddings import EmbeddingsBody
from trine.runtime.serving.api.scoring import RerankBody, ScoreBody
from trine.runtime.serving.api.tei import DecodeBody, EmbedBody, SimilarityBody, TokenizeBody

__all__ = ["OPERATIONS", "Operation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        path: with `{names}` where parts vary.
        method: in capitals.
        summary: one line.
        tag: heading that it stands under.
        answer: name of the answer's schema in `answer_schemas`.
        body: of the request, or None.
        example: a body that is answered with 200.
        binary: whether bytes may be answered instead of JSON.
    """

    path: str
    method: Literal["GET", "POST"]
    summary: str
    tag: str
    answer: str
    body: type[Body] | None = None
    example: Any = None
    binary: bool = False


_OPENAI = "OpenAI and Jina"
_SCORES = "Scores"
_TEI = "text-embeddings-inference"
_COHERE = "Cohere"
_OLLAMA = "Ollama"
_SAGEMAKER = "SageMaker"
_KSERVE = "KServe v2"
_TEXTS = ["a chess game", "a compiler for C"]
_EMBED_EXAMPLE = {"input": _TEXTS, "task": "retrieval.passage", "encoding_format": "float"}
_INFER_EXAMPLE = {
    "inputs": [{"name": "input_text", "shape": [2], "datatype": "BYTES", "data": _TEXTS}]
}
_RERANK_EXAMPLE = {"query": "chess", "documents": _TEXTS, "top_n": 1}
_MODEL = "/v2/models/{model}"

#: In the order they are shown.
OPERATIONS = (
    Operation(
        path="/v1/embeddings", method="POST", summary="Embed texts and images", tag=_OPENAI,
        answer="Embeddings", body=EmbeddingsBody, example=_EMBED_EXAMPLE, binary=True,
    ),
    Operation(
        path="/embeddings", method="POST", summary="As /v1/embeddings", tag=_OPENAI,
        answer="Embeddings", body=EmbeddingsBody, example=_EMBED_EXAMPLE, binary=True,
    ),
    Operation(
        path="/openai/deployments/{model}/embeddings", method="POST", summary="Azure's path",
        tag=_OPENAI, answer="Embeddings", body=EmbeddingsBody, example=_EMBED_EXAMPLE, binary=True,
    ),
    Operation(
        path="/v1/multi-vector", method="POST", summary="One vector a token", tag=_OPENAI,
        answer="Embeddings", body=EmbeddingsBody, example={"input": _TEXTS}, binary=True,
    ),
    Operation(
        path="/pooling", method="POST", summary="One vector a token, as vLLM answers", tag=_OPENAI,
        answer="Pooling", body=EmbeddingsBody, example={"input": _TEXTS},
    ),
    Operation(
        path="/v1/models", method="GET", summary="Names that requests may use", tag=_OPENAI,
        answer="Models",
    ),
    Operation(
        path="/v1/models/{model}", method="GET", summary="One of these names", tag=_OPENAI,
        answer="Model",
    ),
    Operation(
        path="/v1/score", method="POST", summary="Score pairs", tag=_SCORES,
        answer="Scores", body=ScoreBody, example={"text_1": "chess", "text_2": _TEXTS},
    ),
    Operation(
        path="/v1/rerank", method="POST", summary="Rank documents", tag=_SCORES,
        answer="Ranking", body=RerankBody, example=_RERANK_EXAMPLE,
    ),
    Operation(
        path="/rerank", method="POST", summary="As /v1/rerank", tag=_SCORES,
        answer="AnyRanking", body=RerankBody, example=_RERANK_EXAMPLE,
    ),
    Operation(
        path="/", method="POST", summary="As /embed", tag=_TEI,
        answer="Vectors", body=EmbedBody, example={"inputs": _TEXTS},
    ),
    Operation(
        path="/embed", method="POST", summary="Embed texts and images", tag=_TEI,
        answer="Vectors", body=EmbedBody, example={"inputs": _TEXTS},
    ),
    Operation(
        path="/embed_all", method="POST", summary="One vector a token", tag=_TEI,
        answer="TokenVectors", body=EmbedBody, example={"inputs": _TEXTS},
    ),
    Operation(
        path="/similarity", method="POST", summary="Cosines of sentences with one", tag=_TEI,
        answer="Similarities", body=SimilarityBody,
        example={"inputs": {"source_sentence": "chess", "sentences": _TEXTS}},
    ),
    Operation(
        path="/tokenize", method="POST", summary="Tokens of texts", tag=_TEI,
        answer="Tokens", body=TokenizeBody, example={"inputs": _TEXTS},
    ),
    Operation(
        path="/decode", method="POST", summary="Texts of token ids", tag=_TEI,
        answer="Texts", body=DecodeBody, example={"ids": [[1, 2, 3]]},
    ),
    Operation(
        path="/info", method="GET", summary="What the model is", tag=_TEI, answer="Object"
    ),
    Operation(
        path="/v2/embed", method="POST", summary="Embed texts and images", tag=_COHERE,
        answer="CohereEmbeddings", body=CohereBody,
        example={"texts": _TEXTS, "input_type": "search_document", "embedding_types": ["float"]},
    ),
    Operation(
        path="/v1/embed", method="POST", summary="As /v2/embed", tag=_COHERE,
        answer="CohereEmbeddings", body=CohereBody, example={"texts": _TEXTS},
    ),
    Operation(
        path="/api/embed", method="POST", summary="Embed texts", tag=_OLLAMA,
        answer="OllamaEmbeddings", body=OllamaBody, example={"input": _TEXTS},
    ),
    Operation(
        path="/api/embeddings", method="POST", summary="Embed one text", tag=_OLLAMA,
        answer="OllamaEmbedding", body=OllamaPrompt, example={"prompt": "chess"},
    ),
    Operation(
        path="/api/tags", method="GET", summary="Names that requests may use", tag=_OLLAMA,
        answer="Object",
    ),
    Operation(
        path="/api/version", method="GET", summary="The server's version", tag=_OLLAMA,
        answer="Object",
    ),
    Operation(path="/ping", method="GET", summary="Ready", tag=_SAGEMAKER, answer="Object"),
    Operation(
        path="/invocations", method="POST", tag=_SAGEMAKER,
        summary="As /v1/embeddings, or as /embed where the body has inputs",
        answer="Invocation", body=EmbeddingsBody, example=_EMBED_EXAMPLE,
    ),
    Operation(path="/v2", method="GET", summary="What the server is", tag=_KSERVE, answer="Object"),
    Operation(
        path="/v2/health/live", method="GET", summary="Alive", tag=_KSERVE, answer="Object"
    ),
    Operation(
        path="/v2/health/ready", method="GET", summary="Ready", tag=_KSERVE, answer="Object"
    ),
    Operation(
        path="/v2/repository/index", method="GET", summary="Models", tag=_KSERVE, answer="Objects"
    ),
    Operation(
        path="/v2/repository/index", method="POST", summary="Models", tag=_KSERVE, answer="Objects"
    ),
    Operation(
        path=_MODEL, method="GET", summary="Inputs and outputs", tag=_KSERVE, answer="Object"
    ),
    Operation(
        path=f"{_MODEL}/ready", method="GET", summary="Ready", tag=_KSERVE, answer="Object"
    ),
    Operation(
        path=f"{_MODEL}/config", method="GET", summary="Configuration", tag=_KSERVE,
        answer="Object",
    ),
    Operation(
        path=f"{_MODEL}/infer", method="POST", summary="Embed texts and images", tag=_KSERVE,
        answer="Infer", body=InferHeader, example=_INFER_EXAMPLE, binary=True,
    ),
    Operation(
        path=f"{_MODEL}/versions/{{version}}", method="GET", summary="Inputs and outputs",
        tag=_KSERVE, answer="Object",
    ),
    Operation(
        path=f"{_MODEL}/versions/{{version}}/ready", method="GET", summary="Ready", tag=_KSERVE,
        answer="Object",
    ),
    Operation(
        path=f"{_MODEL}/versions/{{version}}/config", method="GET", summary="Configuration",
        tag=_KSERVE, answer="Object",
    ),
    Operation(
        path=f"{_MODEL}/versions/{{version}}/infer", method="POST",
        summary="Embed texts and images", tag=_KSERVE, answer="Infer", body=InferHeader,
        example=_INFER_EXAMPLE, binary=True,
    ),
)  # fmt: skip
