"""openai, @ai-sdk/openai-compatible and jina-ai-provider (Node)."""

import json

import pytest

pytestmark = pytest.mark.clients

OPENAI = """
const OpenAI = require("openai");
const client = new OpenAI({ baseURL: process.env.BASE, apiKey: "any", maxRetries: 0 });
const input = JSON.parse(process.env.INPUT);
(async () => {
  const answer = await client.embeddings.create({ model: "jina-embeddings-v4", input });
  const cut = await client.embeddings.create(
    { model: "jina-embeddings-v4", input, dimensions: 64, encoding_format: "float" });
  let status = 0;
  try { await client.embeddings.create({ model: "other", input }); }
  catch (error) { status = error.status; }
  console.log(JSON.stringify({ whole: answer.data.map((d) => d.embedding),
    cut: cut.data.map((d) => d.embedding), status }));
})();
"""

COMPATIBLE = """
globalThis.AI_SDK_LOG_WARNINGS = false;
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { embedMany } = require("ai");
const provider = createOpenAICompatible({ name: "trine", baseURL: process.env.BASE });
(async () => {
  const model = provider.textEmbeddingModel("jina-embeddings-v4:retrieval.passage");
  const { embeddings } = await embedMany({ model, values: JSON.parse(process.env.INPUT) });
  console.log(JSON.stringify(embeddings));
})();
"""

JINA = """
globalThis.AI_SDK_LOG_WARNINGS = false;
const { createJina } = require("jina-ai-provider");
const { embedMany } = require("ai");
const jina = createJina({ baseURL: process.env.BASE, apiKey: "any" });
(async () => {
  const model = jina.textEmbeddingModel("jina-embeddings-v4");
  const { embeddings } = await embedMany({ model, values: JSON.parse(process.env.INPUT),
    providerOptions: { jina: { inputType: "retrieval.passage", outputDimension: 128 } } });
  console.log(JSON.stringify(embeddings));
})();
"""


def test_openai_decodes_the_base64_it_asks_for(server, run_node, texts, expected, close):
    found = json.loads(run_node("openai", OPENAI, BASE=f"{server}/v1", INPUT=json.dumps(texts)))
    close(found["whole"], expected(texts))
    close(found["cut"], expected(texts, dim=64))
    assert found["status"] == 404


def test_openai_compatible_provider(server, run_node, texts, expected, close):
    printed = run_node(
        "@ai-sdk/openai-compatible", COMPATIBLE, BASE=f"{server}/v1", INPUT=json.dumps(texts)
    )
    close(json.loads(printed), expected(texts, "passage"))


def test_jina_provider(server, run_node, texts, expected, close):
    printed = run_node("jina-ai-provider", JINA, BASE=f"{server}/v1", INPUT=json.dumps(texts))
    close(json.loads(printed), expected(texts, "passage", dim=128))
