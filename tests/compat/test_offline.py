"""The first article's script: its lines with the import changed, voting over three draws."""

import json
import re
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from compat.articles import article, needs_articles, unfolded
from compat.models import model_folder

LOADING = [
    (0, "from martlet import LLM"),
    (0, "from transformers import"),
    (0, "import torch"),
    (0, "device ="),
    (0, "model_path ="),
    (0, "llm = LLM(model_path)"),
    (0, "tokenizer ="),
]
PROCESSING = [
    (0, "def process_datas"),
    (1, "prompts = []"),
    (1, "results = []"),
    (1, "# os.environ"),
    (1, "for data in"),
    (2, "problem ="),
    (2, "for id, question"),
    (3, "prompt = get_prompt"),
    (3, "messages ="),
    (3, "text ="),
    (3, "prompts.append"),
    (1, "sampling_params ="),
    (1, "outputs1 ="),
    (1, "outputs2 ="),
    (1, "outputs3 ="),
    (1, "'''单路投票'''"),
    (1, "'''多路投票'''"),
    (1, "i = 0 #"),
    (1, "for data in"),
    (2, "for id, question"),
    (3, "generated_text1 ="),
    (3, "generated_text2 ="),
    (3, "generated_text3 ="),
    (3, "i = i + 1"),
    (3, "extract_response1, "),
    (3, "ans ="),
    (3, "data['questions'][id]['answer'] ="),
    (2, "results.append"),
    (1, "return results"),
]


@needs_articles
def test_the_script_votes_on_every_question(tmp_path: Path) -> None:
    text = article(1).replace("from vllm import", "from martlet import")
    (loading,) = re.findall(r"^from martlet import.*?^tokenizer = [^\n]*", text, re.M | re.S)
    (processing,) = re.findall(r"^def process_datas.*$", text, re.M)
    folder = model_folder("qwen2", tmp_path / "merged_model_ana_my")
    code = unfolded(loading.replace("./merged_model_ana_my", str(folder)), LOADING)
    code += unfolded(processing, PROCESSING)
    (problem,) = re.findall(r'^\{"problem": .*\}$', text, re.M)
    data = json.loads(problem)
    data["questions"] *= 2
    seen: list[str] = []

    def extract(reply: str) -> str:
        seen.append(reply)
        return reply[:1]

    (with_tokenizer,) = re.findall(r"^llm = LLM\(model_path, model_path\)", text, re.M)
    code += with_tokenizer
    names = {
        "tqdm": tqdm,
        "get_prompt": lambda *parts: "\n".join(map(str, parts)),
        "extract": extract,
        "most_frequent_char": lambda *votes: Counter(votes).most_common(1)[0][0],
    }
    exec(compile(code, "article", "exec"), names)
    (result,) = names["process_datas"]([data], "model")  # type: ignore[operator]
    assert len(seen) == len(set(seen)) == 6  # three draws of two questions, all different
    assert all(each["answer"] in {reply[:1] for reply in seen} for each in result["questions"])
