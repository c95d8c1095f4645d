"""Names of providers in the OpenTelemetry conventions for generative AI, by server address.

https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/ (`gen_ai.provider.name`)
"""

from __future__ import annotations

from urllib.parse import urlsplit

IN_PROCESS_PROVIDER = "agentkit"
"""Provider of models that run in this process; the conventions leave such names to the implementation."""
_UNKNOWN_SERVER = "openai"
"""The conventions name the provider of an OpenAI-compatible server after its protocol if nothing else is known."""
_BY_DOMAIN = {
    "anthropic.com": "anthropic",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "api.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
    "amazonaws.com": "aws.bedrock",
    "cohere.ai": "cohere",
    "cohere.com": "cohere",
    "deepseek.com": "deepseek",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "groq.com": "groq",
    "inference.ai.azure.com": "azure.ai.inference",
    "ml.cloud.ibm.com": "ibm.watsonx.ai",
    "models.ai.azure.com": "azure.ai.inference",
    "openai.azure.com": "azure.ai.openai",
    "perplexity.ai": "perplexity",
    "services.ai.azure.com": "azure.ai.inference",
}


def provider_of(base_url: str) -> str:
    """Return the provider behind an OpenAI-compatible address."""
    host = (urlsplit(base_url).hostname or "").lower()
    for domain, name in _BY_DOMAIN.items():
        before, found, after = host.rpartition(domain)
        # Google's hosts have the region and a hyphen in front: us-central1-aiplatform.googleapis.com.
        if found and not after and before[-1:] in ("", ".", "-"):
            return name
    return _UNKNOWN_SERVER
