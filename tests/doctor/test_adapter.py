"""Faults of adapters beside their base."""

from dataclasses import replace
from pathlib import Path

import pytest

from martlet.doctor.adapter import AdapterExamination
from martlet.doctor.finding import Finding
from martlet.doctor.model import KnownModel, ModelExamination
from martlet.lora.provenance import Provenance
from martlet.models.folder import ModelFolder, open_folder
from support.adapters import make_adapter
from support.tiny_models import tiny_model_folder


@pytest.fixture(scope="module")
def adapter(tiny_llama: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "judge"
    return make_adapter(folder, tiny_llama, r=4, target_modules=["q_proj", "v_proj"])


@pytest.fixture(scope="module")
def model(tiny_llama: ModelFolder) -> KnownModel:
    return known(tiny_llama.path)


def known(path: Path, chat_template: Path | None = None) -> KnownModel:
    examination = ModelExamination(str(path), chat_template)
    assert [each.state for each in examination.findings()] == ["ok"] * 5
    assert examination.model is not None
    return examination.model


def examined(adapter: Path, model: KnownModel | None) -> list[Finding]:
    return list(AdapterExamination("judge", str(adapter), model).findings())


@pytest.fixture
def provenance(model: KnownModel) -> Provenance:
    """What training on the model writes."""
    return Provenance(
        base=str(model.folder.path),
        base_hash=model.folder.model_hash,
        template_hash=model.tokenizer.template_hash,
        tokenizer_hash=model.tokenizer.tokenizer_hash,
        stop_ids=model.tokenizer.stop_ids,
        tuner="lora",
        method="sft",
        base_dtype="float32",
        base_quantization=None,
        martlet="0.1.0",
    )


@pytest.fixture(autouse=True)
def no_provenance_left(adapter: Path) -> None:
    """The adapter is shared, its file of provenance is each test's own."""
    (adapter / "martlet.json").unlink(missing_ok=True)


def test_an_adapter_on_its_base(adapter: Path, model: KnownModel, provenance: Provenance) -> None:
    provenance.write(adapter)
    (finding,) = examined(adapter, model)
    assert finding.state == "ok"
    assert finding.what.startswith("8 tensors, rank 4, all land")
    (alone,) = examined(adapter, None)
    assert "made for" in alone.what


def test_adapter_of_another_base_of_another_shape(adapter: Path, tmp_path: Path) -> None:
    other = known(tiny_model_folder("gpt_neox", tmp_path / "other"))
    (fault,) = examined(adapter, other)
    assert (fault.state, fault.exit_code) == ("fault", 4)
    assert "does not fit this model, tensors 0/8" in fault.what
    assert fault.remedy is not None
    assert fault.remedy.endswith(f"llama --adapter judge={adapter}")


def test_adapter_of_another_base_of_the_same_shape(
    adapter: Path, model: KnownModel, provenance: Provenance, tmp_path: Path
) -> None:
    other = known(tiny_model_folder("llama", tmp_path / "another", seed=1))
    (_, doubt) = examined(adapter, other)
    assert doubt.state == "warning"
    assert f"names {model.folder.path} as its base" in doubt.what
    provenance.write(adapter)
    (fault,) = examined(adapter, other)
    assert (fault.state, fault.exit_code) == ("fault", 4)
    assert f"was trained on {model.folder.path}" in fault.what
    given = f"{model.folder.path} --adapter judge={adapter}"
    assert (doubt.remedy, fault.remedy) == (f"martlet doctor {given}", f"martlet serve {given}")


def test_template_changed_since_the_training(
    adapter: Path, model: KnownModel, provenance: Provenance
) -> None:
    replace(provenance, template_hash="0123456789abcdef").write(adapter)
    (fault,) = examined(adapter, model)
    assert (fault.state, fault.exit_code) == ("fault", 4)
    assert "trained with the chat template 0123456789abcdef" in fault.what
    assert fault.remedy == (
        f"martlet serve {model.name} --adapter judge={adapter} "
        f"--chat-template {adapter}/chat_template.jinja"
    )


def test_an_untrained_adapter(tmp_path: Path, model: KnownModel) -> None:
    base = open_folder(model.folder.path)
    fresh = make_adapter(tmp_path / "fresh", base, scale=0, r=4, target_modules=["q_proj"])
    (fault,) = examined(fresh, model)
    assert (fault.state, fault.exit_code) == ("fault", 4)
    assert "changes nothing" in fault.what
    assert fault.remedy == "martlet train DATA --model BASE --out NEW"


def test_folders_that_are_no_adapter(model: KnownModel, tmp_path: Path) -> None:
    (missing,) = examined(tmp_path / "none", model)
    assert (missing.exit_code, missing.remedy) == (3, "find . -name adapter_config.json")
    (whole,) = examined(model.folder.path, model)
    assert "holds a whole model" in whole.what
    assert whole.remedy == f"martlet doctor {model.folder.path}"


def test_an_adapter_whose_base_has_moved(
    adapter: Path, provenance: Provenance, tmp_path: Path
) -> None:
    other = known(tiny_model_folder("llama", tmp_path / "another", seed=1))
    for base in ("./moved", str(other.folder.path)):  # gone, and replaced by another
        replace(provenance, base=base).write(adapter)
        (fault,) = examined(adapter, other)
        assert fault.remedy == f"martlet serve BASE --adapter judge={adapter}"


def test_an_adapter_in_place_of_a_model(
    adapter: Path, model: KnownModel, provenance: Provenance
) -> None:
    provenance.write(adapter)
    (fault,) = ModelExamination(str(adapter)).findings()
    assert fault.remedy == f"martlet doctor {model.folder.path} --adapter judge={adapter}"
