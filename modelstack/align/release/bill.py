"""Bill of materials of a release: CycloneDX 1.6 with a model card, as JSON.

The model is a component `machine-learning-model`, its data sets are components `data`, its files are hashed.
Fields beyond the standard are properties with the names of OWASP's AIBOM generator, which scores how complete a
bill is.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import quote

from mcp_servers.distribution import NAME
from modelstack.align.release.figures import Figure, of_part
from modelstack.align.release.parts import Release
from modelstack.align.release.provenance import DataOfStage
from modelstack.data.code.expressions import known_id

SPEC_VERSION = "1.6"
_NAMESPACE = uuid.UUID("6f0e5f0e-5d5c-5b06-9a8e-0c6f2b0a1d37")
"""Namespace of serial numbers: equal releases have equal ones."""
_CARD = "genai:aibom:modelcard"


def bill(release: Release, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return the bill.

    Args:
        release: The parts.
        hashes: SHA-256 of the files that the bill lists, by name.
    """
    model = _model(release, hashes)
    serial = uuid.uuid5(_NAMESPACE, json.dumps([release.model_dump(mode="json"), dict(hashes)]))
    data = [_data_set(release, each) for each in release.data]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": f"{release.date}T00:00:00Z",
            "tools": {"components": [_tool()]},
            "component": _described(release) | {"bom-ref": "release", "externalReferences": _references(release)},
            "supplier": _organisation(release),
            "properties": _properties(_metadata(release)),
        },
        "components": [model, _base(release), *data],
        "dependencies": [
            {"ref": "model", "dependsOn": ["base", *(each["bom-ref"] for each in data)]},
            {"ref": "release", "dependsOn": ["model"]},
        ],
    }


def _described(release: Release) -> dict[str, Any]:
    about = release.about
    return {
        "type": "machine-learning-model",
        "name": about.name,
        "version": about.version,
        "description": about.summary,
        "supplier": _organisation(release),
        "licenses": [_licence(about.licence)],
        "purl": f"pkg:huggingface/{quote(about.name)}@{quote(about.version)}",
    }


def _model(release: Release, hashes: Mapping[str, str]) -> dict[str, Any]:
    files = [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_hash(sha256)]}
        for name, sha256 in sorted(hashes.items())
    ]
    return _described(release) | {
        "bom-ref": "model",
        "hashes": [_hash(release.weights_sha256)],
        "externalReferences": _references(release),
        "components": files,
        "pedigree": {"ancestors": [_base(release) | {"bom-ref": "ancestor"}], "notes": release.stage.what},
        "modelCard": {
            "bom-ref": "model-card",
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "text-generation",
                "architectureFamily": release.model.family,
                "modelArchitecture": f"{release.model.family} decoder, {release.model.layers} layers",
                "datasets": [{"ref": _data_ref(each)} for each in release.data],
                "inputs": [{"format": "text"}],
                "outputs": [{"format": "text"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": [*map(_metric, release.figures)]},
            "considerations": _considerations(release),
            "properties": _properties(_sizes(release)),
        },
    }


def _considerations(release: Release) -> dict[str, Any]:
    about = release.about
    watt_hours = f"{release.compute.watt_hours / 1000:.6g}"
    return {
        "users": list(about.users),
        "useCases": list(about.uses),
        "technicalLimitations": list(about.limits),
        "performanceTradeoffs": [note for notes in release.notes.values() for note in notes] or ["None stated."],
        "ethicalConsiderations": [
            {"name": each.name, "mitigationStrategy": each.mitigation} for each in about.risks
        ],
        "environmentalConsiderations": {
            "energyConsumptions": [
                {
                    "activity": "training",
                    "energyProviders": [
                        {
                            "bom-ref": "energy",
                            "organization": _organisation(release),
                            "energySource": "unknown",
                            "energyProvided": {"value": float(watt_hours), "unit": "kWh"},
                        }
                    ],
                    "activityEnergyCost": {"value": float(watt_hours), "unit": "kWh"},
                }
            ]
        },
        "fairnessAssessments": [{"groupAtRisk": about.fairness}],
    }


def _metadata(release: Release) -> Iterator[tuple[str, str]]:
    """Yield properties with the names of OWASP's field list."""
    about, compute = release.about, release.compute
    tampered = of_part(release.figures, "tamper")
    yield "standardCompliance", f"CycloneDX {SPEC_VERSION}; Hugging Face model card; OpenSSF Model Signing 1.0"
    yield "domain", about.domain
    yield "autonomyType", about.autonomy
    yield "primaryPurpose", "text-generation"
    yield "suppliedBy", about.supplier
    yield "energyConsumption", f"{compute.watt_hours:.6g} Wh for training, {about.energy.note}"
    yield "energyQuantity", f"{compute.watt_hours:.6g}"
    yield "energyUnit", "Wh"
    yield "safetyRiskAssessment", "; ".join(f"{each.name}: {each.measured}" for each in tampered) or "none"
    yield "intendedUse", "; ".join(about.uses)
    yield "typeOfModel", f"{release.model.family} decoder"
    yield "hyperparameter", f"recipe with SHA-256 {release.stage.recipe_sha256}"
    yield "external_references", about.links.download
    yield "informationAboutTraining", release.stage.what
    yield "informationAboutApplication", "; ".join(about.uses)
    yield "metric", "; ".join(each.name for each in of_part(release.figures, "evaluation")) or "none"
    yield "metricDecisionThreshold", about.threshold
    yield "modelDataPreprocessing", about.preprocessing
    yield "useSensitivePersonalInformation", about.personal_data


def _sizes(release: Release) -> Iterator[tuple[str, str]]:
    model = release.model
    yield f"{_CARD}:hyperparameter", json.dumps(release.stage.recipe, sort_keys=True)
    yield f"{_CARD}:modelCardExplainability", release.about.explanation
    yield f"{_CARD}:vocabSize", str(model.vocab_size)
    yield f"{_CARD}:tokenizerClass", "PreTrainedTokenizerFast"
    yield f"{_CARD}:contextLength", str(model.context)
    yield f"{_CARD}:embeddingLength", str(model.width)
    yield f"{_CARD}:blockCount", str(model.layers)
    yield f"{_CARD}:attentionHeadCount", str(model.heads)
    yield f"{_CARD}:attentionHeadCountKV", str(model.kv_heads)
    yield f"{_CARD}:feedForwardLength", str(model.mlp_width)
    yield f"{_CARD}:ropeDimensionCount", str(model.rope_dimension)
    yield f"{_CARD}:quantizationVersion", "2"  # GGML_QNT_VERSION
    yield f"{_CARD}:quantizationFileType", model.gguf_type


def _metric(figure: Figure) -> dict[str, Any]:
    return {
        "type": f"{figure.part}: {figure.name}",
        "value": repr(figure.value),
        "slice": f"n = {figure.n}, seed {figure.seed}",
        "confidenceInterval": {"lowerBound": repr(figure.low), "upperBound": repr(figure.high)},
    }


def _base(release: Release) -> dict[str, Any]:
    base = release.about.base
    return {
        "type": "machine-learning-model",
        "bom-ref": "base",
        "name": base.id,
        "purl": f"pkg:huggingface/{'/'.join(map(quote, base.id.split('/')))}",
        "licenses": [_licence(base.licence)],
        "hashes": [_hash(release.stage.base_sha256)],
    }


def _data_set(release: Release, data: DataOfStage) -> dict[str, Any]:
    sources = ", ".join(f"{name} {n:,}" if n else name for name, n in data.sources.items())
    return {
        "type": "data",
        "bom-ref": _data_ref(data),
        "name": f"training data of {data.stage}",
        "description": data.statement or f"{data.n_rows:,} rows: {sources}",
        "licenses": [_licence(each) for each in data.licences],
        "data": [
            {
                "type": "dataset",
                "name": f"training data of {data.stage}",
                "contents": {"properties": _properties(sorted((key, str(n)) for key, n in data.sources.items()))},
                "classification": "public",
                "governance": {"owners": [{"organization": _organisation(release)}]},
            }
        ],
    }


def _data_ref(data: DataOfStage) -> str:
    return f"data:{data.sha256[:12]}"


def _references(release: Release) -> list[dict[str, str]]:
    links = release.about.links
    return [
        {"type": "website", "url": links.website},
        {"type": "vcs", "url": links.source},
        {"type": "distribution", "url": links.download},
        {"type": "documentation", "url": links.paper},
        {"type": "model-card", "url": f"{links.download}#README.md"},
        {"type": "evidence", "url": f"{links.download}#release.json"},
        {"type": "risk-assessment", "url": f"{links.download}#README.md"},
        {"type": "adversary-model", "url": f"{links.download}#README.md"},
    ]


def _licence(text: str) -> dict[str, Any]:
    known = known_id(text)
    is_spdx = known is not None and not known.startswith("LicenseRef-")
    return {"license": {"id": known} if is_spdx else {"name": text}}


def _organisation(release: Release) -> dict[str, Any]:
    return {"name": release.about.supplier, "url": [release.about.links.website]}


def _tool() -> dict[str, Any]:
    try:
        found = version(NAME)
    except PackageNotFoundError:
        found = "unknown"
    return {"type": "application", "name": "modelstack release", "version": found}


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _properties(values: Any) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values]
