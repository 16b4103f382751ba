"""The fifth article's command: its lines as modern ones, and as they run."""

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compat.articles import commands, needs_articles, requests
from compat.models import model_folder
from martlet.compat.swift.__main__ import main, translated
from martlet.errors import AdapterError, MartletError, ParameterError
from martlet.models.folder import open_folder
from support.adapters import make_adapter

# PEFT and bitsandbytes lag behind what transformers and torch deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

Swift = Callable[..., str]


@pytest.fixture
def swift(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Swift:
    """Runs a command in this process and gives what it wrote to stdout; stderr is `swift.told`."""
    monkeypatch.setenv("MARTLET_VLLM", "no-vllm-here")

    def run(*arguments: object, piped: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
        capsys.readouterr()
        main([str(each) for each in arguments])
        printed = capsys.readouterr()
        sys.stderr.write(printed.err)
        return printed.out

    return run


@pytest.fixture
def modern(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The modern commands that a line becomes, none of which is run."""
    monkeypatch.setenv("MARTLET_VLLM", "no-vllm-here")

    def translate(line: str) -> list[str]:
        return [shlex.join(["martlet", *verb]) for verb in translated(shlex.split(line)[1:])]

    return translate


@needs_articles
def test_the_articles_lines_in_modern_words(
    modern: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line as it stands, in a folder with the checkpoints that it names."""
    monkeypatch.chdir(tmp_path)
    base = open_folder(model_folder("llama", tmp_path / "llama3-8b-instruct"))
    (tmp_path / "mnt").mkdir()
    for name in (
        "xxx/vx-xxx/checkpoint-xxx",
        "mnt/ckpt-1000",
        "output/llama2-7b-chat/vx-xxx/checkpoint-xxx-peft",
    ):
        make_adapter(tmp_path / name, base, r=4, target_modules=["q_proj"])
    model_folder("llama", tmp_path / "xxx/vx-xxx/checkpoint-xxx-merged")
    lines = [line.replace("/mnt/", "mnt/") for line in commands()]
    is_other = re.compile("tensor_parallel|to_peft|load_dataset")
    told = [modern(line) for line in lines if not is_other.search(line)]
    base_dir = shlex.quote(str(base.path))
    ckpt, peft = "xxx/vx-xxx/checkpoint-xxx", "output/llama2-7b-chat/vx-xxx/checkpoint-xxx-peft"
    listen = "--host 127.0.0.1 --port 8000"
    merge = f"martlet merge {ckpt} --model {base_dir} --out {ckpt}-merged"
    rule = r"--chat-template \S+/rules/qwen.jinja"
    expected = [
        rf"martlet chat Qwen/Qwen-7B-Chat {rule} --trust-remote-code",
        "martlet chat 01-ai/Yi-6B-Chat",
        "martlet chat Qwen/Qwen1.5-7B-Chat-GPTQ-Int4",
        merge,
        f"martlet chat {ckpt}-merged",
        rf"martlet ui Qwen/Qwen-7B-Chat --host 127.0.0.1 --port 7860 {rule} --trust-remote-code",
        merge,
        f"martlet ui {ckpt}-merged --host 127.0.0.1 --port 7860",
        rf"martlet serve Qwen/Qwen-7B-Chat --served-model-name qwen-7b-chat {listen} {rule} "
        "--trust-remote-code",
        f"martlet serve Qwen/Qwen-7B --served-model-name qwen-7b {listen} --trust-remote-code",
        merge,
        f"martlet serve {ckpt}-merged --served-model-name llama3-8b-instruct {listen}",
        f"martlet serve {base_dir} --served-model-name llama3-8b-instruct "
        f"--adapter default-lora=mnt/ckpt-1000 --adapter my_tuner=mnt/my-tuner {listen}",
        "martlet train 'sharegpt-gpt4-mini#1000' output/llama2-7b-chat-self-cognition.jsonl "
        "--model meta-llama/Llama-2-7b-chat-hf --out output/llama2-7b-chat --max-length 4096 "
        "--rank 8 --alpha 32 --dropout 0.05 --epochs 1 --batch-size 1 --accumulation 16 "
        "--schedule linear --warmup 0.4 --weight-decay 0.1 --max-gradient-norm 0.5 --seed 42 "
        "--evaluate-every 50 --save-every 50 --learning-rate 5e-05 --too-long skip "
        "--validation 0.01",
        f"martlet chat {base_dir} --adapter default-lora={peft}",
        f"martlet serve {base_dir} --served-model-name llama3-8b-instruct "
        f"--adapter default-lora={peft} {listen}",
    ]
    assert len(told) == len(expected)
    for (line,), pattern in zip(told, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    rows = Path("output/llama2-7b-chat-self-cognition.jsonl").read_text().splitlines()
    assert len(rows) == 500
    first, second = (json.loads(row)["response"] for row in rows[:2])
    assert "小黄" in first
    assert "魔搭" in first
    assert "Xiao Huang" in second
    assert "ModelScope" in second


def test_the_base_of_an_adapter_is_what_training_wrote_down(
    modern: Callable[[str], list[str]], tmp_path: Path
) -> None:
    config = {"base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert modern(f"swift infer --ckpt_dir {tmp_path}") == [
        f"martlet chat org/base --adapter default-lora={tmp_path}"
    ]
    arguments = {"model_type": "qwen-7b-chat", "model_id_or_path": "qwen/Qwen-7B-Chat"}
    (tmp_path / "sft_args.json").write_text(json.dumps(arguments))
    (told,) = modern(f"swift deploy --ckpt_dir {tmp_path}")
    assert told.startswith("martlet serve Qwen/Qwen-7B-Chat --served-model-name qwen-7b-chat")
    assert "rules/qwen.jinja --trust-remote-code" in told
    (told,) = modern(f"swift infer --ckpt_dir {tmp_path} --model_type demo")
    assert told.startswith("martlet chat demo --adapter")
    (tmp_path / "sft_args.json").write_text("[")
    with pytest.raises(AdapterError, match=r"sft_args\.json cannot be read"):
        modern(f"swift infer --ckpt_dir {tmp_path}")


@needs_articles
def test_several_gpus_are_for_vllm(
    modern: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in commands() if "tensor_parallel" in line]
    assert len(lines) == 2
    with pytest.raises(MartletError, match="--tensor_parallel_size is for vLLM, and there is no"):
        modern(lines[0])
    monkeypatch.setenv("MARTLET_VLLM", sys.executable)
    for line in lines:
        assert modern(line)[0].endswith("--backend vllm --tensor-parallel-size 4")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("infer --model_typ demo", "swift infer knows no --model_typ; did you mean --model_type?"),
        ("deploy --model_type demo --eval_humen 1", "knows no --eval_humen; known: --model_type"),
        ("infer --model_type demo --merge_lora yes", "must be true or false, not 'yes'"),
        ("infer --model_type demo --merge_lora true", "needs an adapter in --ckpt_dir"),
        ("infer --model_type demo extra", "'extra' belongs to no flag"),
        ("infer --model_type qwen-7b-cht", "did you mean qwen-7b-chat?"),
        ("infer", "name a model: --model_type"),
        ("infer --model_type demo --load_dataset_config true", "needs --ckpt_dir"),
        ("infer --ckpt_dir nowhere", "no such checkpoint: nowhere"),
        ("export --model_type demo", "say what to export"),
        ("export --model_type demo --quant_bits 2", "invalid choice: '2'"),
        ("sft --model_type demo", "name rows to learn: --dataset"),
        ("sft --model_type demo --dataset a b --train_dataset_sample 5", "is for one --dataset"),
        ("sft --model_type demo --self_cognition_sample 5", "needs --model_name"),
        ("eval --model_type demo", "no command 'eval'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(swift: Swift, line: str, sentence: str) -> None:
    with pytest.raises(MartletError, match=re.escape(sentence)):
        swift(*line.split())


def article_line(pattern: str, **names: object) -> list[str]:
    """The first of the article's lines that matches, with other paths and names in it."""
    line = next(line for line in commands() if re.search(pattern, line))
    arguments = shlex.split(line)[1:]
    return [str(names.get(each, each)) for each in arguments]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder("llama", tmp_path_factory.mktemp("base") / "llama2-7b-chat")


@pytest.fixture(scope="module")
def checkpoint(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the article's training leaves, with fewer rows."""
    place = tmp_path_factory.mktemp("output")
    rows = place / "rows.jsonl"
    pairs = ({"query": f"{a} + {a} = ?", "response": f"{a + a}"} for a in range(40))
    rows.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    names = {"llama2-7b-chat": base, "sharegpt-gpt4-mini": rows, "output": place}
    main(article_line("swift sft", **names, **{"1000": 32, "500": 16, "5e-5": "5e-2"}))
    return place / "llama2-7b-chat"


@needs_articles
def test_a_training_becomes_replies(checkpoint: Path, base: Path, swift: Swift) -> None:
    """The article's way from a training to a merged model that answers its validation rows."""
    main(article_line("to_peft", **{"output/llama2-7b-chat/vx-xxx/checkpoint-xxx": checkpoint}))
    converted = checkpoint.with_name(f"{checkpoint.name}-peft")
    weights = "adapter_model.safetensors"
    assert (converted / weights).stat().st_size > 10_000
    main(article_line("merge_lora", **{"xxx/vx-xxx/checkpoint-xxx": checkpoint}))
    merged = checkpoint.with_name(f"{checkpoint.name}-merged")
    assert json.loads((merged / "certificate.json").read_text())["passed"]
    names = {"xxx/vx-xxx/checkpoint-xxx-merged": merged}
    swift(*article_line("load_dataset", **names), "--max_new_tokens", 8)
    (result,) = (merged / "infer_result").glob("replies-*.jsonl")
    (row,) = map(json.loads, result.read_text().splitlines())
    assert row["messages"][-1]["role"] == "user"
    assert row["expected"]
    assert row["reply"]
    drawing = ("--max_new_tokens", 8, "--temperature", 0, "--dtype", "fp32")
    lora = {"output/llama2-7b-chat/vx-xxx/checkpoint-xxx-peft": converted}
    tuned = swift(*article_line("infer.*enable_lora", **lora), *drawing, piped="who are you?")
    plain = swift(
        *article_line("infer --model_type qwen-7b-chat", **{"qwen-7b-chat": base}),
        *drawing,
        piped="who are you?",
    )
    assert tuned.strip()
    assert plain.strip()
    assert tuned != plain


@contextmanager
def deployed(*arguments: object) -> Iterator[str]:
    """A server that the command starts in a process of its own; its address."""
    command = [sys.executable, "-m", "martlet.compat.swift", *map(str, arguments)]
    process = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r"on (http\S+)/v1", line)))
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)


@needs_articles
def test_adapters_are_deployed_beside_their_base(base: Path, tmp_path: Path) -> None:
    """The article's servers with adapters, asked by its own calls of curl."""
    folders = {}
    for seed, name in enumerate(("ckpt-1000", "my-tuner")):
        folders[name] = make_adapter(
            tmp_path / name, open_folder(base), seed=seed, r=8, target_modules=["q_proj"]
        )
    line = article_line(
        "lora_modules",
        **{"/mnt/ckpt-1000": folders["ckpt-1000"]},
        **{"my_tuner=/mnt/my-tuner": f"my-tuner={folders['my-tuner']}"},
    )
    with deployed(*line) as url:
        replies = [
            subprocess.run(
                ["bash", "-c", request.replace("http://localhost:8000", url)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for request in requests()[2:]
        ]
    texts = [json.loads(reply)["choices"][0]["message"]["content"] for reply in replies]
    assert len(set(texts)) == 3  # my-tuner, default-lora, and the base by its name


def test_an_adapter_of_the_tools_own_format_is_converted(
    base: Path, tmp_path: Path, swift: Swift
) -> None:
    import safetensors.torch

    peft = make_adapter(tmp_path / "peft", open_folder(base), r=4, target_modules=["q_proj"])
    weights = "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(peft / weights)
    own = tmp_path / "checkpoint-7"
    (own / "default").mkdir(parents=True)
    named = {
        key.removeprefix("base_model.model.").replace(".weight", ".default.weight"): each
        for key, each in tensors.items()
    }
    safetensors.torch.save_file(named, own / "default" / weights)
    config = json.loads((peft / "adapter_config.json").read_text())
    config |= {"swift_type": "LORA", "use_merged_linear": False, "lora_dtype": "AUTO"}
    del config["peft_type"]
    (own / "default" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ParameterError, match=r"not in PEFT's format; convert it with: export"):
        swift("infer", "--ckpt_dir", own)
    swift("export", "--ckpt_dir", own, "--to_peft_format", "true")
    converted = safetensors.torch.load_file(tmp_path / "checkpoint-7-peft" / weights)
    assert converted.keys() == tensors.keys()
    assert all(bool((converted[key] == tensors[key]).all()) for key in tensors)
    with pytest.raises(MartletError, match="nothing is overwritten"):
        swift("export", "--ckpt_dir", own, "--to_peft_format", "true")
    config["use_qa_lora"] = True
    (own / "default" / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoint-7-peft").rename(tmp_path / "away")
    with pytest.raises(AdapterError, match="use_qa_lora, which PEFT cannot express"):
        swift("export", "--ckpt_dir", own, "--to_peft_format", "true")
